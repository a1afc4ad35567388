// A click on a finished stage shows its model; the clock runs on between two beats of the server.
const clockTime = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

let beatAt = performance.now();
let lastState = "idle";

// On a phone the viewer is below the button that was just pressed.
const followRun = (state) => {
  if (state === "waiting" && lastState !== "waiting" && window.innerWidth < 760) {
    document.querySelector("#stage-panel").scrollIntoView({ behavior: "smooth" });
  }
  lastState = state;
};

const showClock = () => {
  const section = element.querySelector(".stages");
  const clock = element.querySelector(".clock");
  if (!section || !clock) return;
  const running = section.dataset.state === "running";
  const since = running ? (performance.now() - beatAt) / 1000 : 0;
  const elapsed = parseFloat(section.dataset.elapsed);
  const remaining = parseFloat(section.dataset.remaining);
  let words = Number.isFinite(elapsed) ? clockTime(elapsed + since) : "";
  if (running && Number.isFinite(remaining)) {
    const left = remaining - since;
    words += left > 1 ? ` · about ${clockTime(left)} left` : " · nearly there";
  }
  clock.textContent = words;
};

element.addEventListener("click", (event) => {
  const stage = event.target.closest(".stage");
  if (stage && stage.querySelector("img")) trigger("select", { value: stage.dataset.stage });
});

watch("value", () => {
  beatAt = performance.now();
  const beat = element.querySelector(".beat");
  if (beat) beat.getAnimations().forEach((animation) => { animation.cancel(); animation.play(); });
  showClock();
  followRun(element.querySelector(".stages").dataset.state);
});

showClock();
setInterval(showClock, 500);
