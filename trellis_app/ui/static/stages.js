// A click on a finished stage shows its model; the clock runs on between two beats of the server.
const clockTime = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

let began = null; // when the run began, by this machine's clock
let ends = null; // when it will be over, as it seems
let step = ""; // the step that `ends` was estimated at
let lastState = "idle";

// On a phone the viewer is below the button that was just pressed.
const followRun = (state) => {
  if (state === "waiting" && lastState !== "waiting" && window.innerWidth < 760) {
    document.querySelector("#stage-panel").scrollIntoView({ behavior: "smooth" });
  }
  lastState = state;
};

// A beat of the server may push the beginning back but never forth, so the clock only runs forward. An estimate is taken
// at the begin of a step and counts down from there, so it does not flicker.
const takeBeat = (section) => {
  const now = performance.now();
  const elapsed = parseFloat(section.dataset.elapsed);
  if (section.dataset.state === "waiting" || !Number.isFinite(elapsed)) {
    began = ends = null;
    return;
  }
  began = Math.min(began ?? Infinity, now - 1000 * elapsed);
  const title = section.querySelector(".status-words strong").textContent;
  if (title === step && ends !== null) return;
  step = title;
  const remaining = parseFloat(section.dataset.remaining);
  ends = Number.isFinite(remaining) ? now + 1000 * remaining : null;
};

let stopped = null; // when the clock stood still
const showClock = () => {
  const section = element.querySelector(".stages");
  const clock = element.querySelector(".clock");
  if (!section || !clock) return;
  const running = section.dataset.state === "running";
  stopped = running ? null : stopped ?? performance.now();
  const now = stopped ?? performance.now();
  let words = began === null ? "" : clockTime((now - began) / 1000);
  if (running && ends !== null) {
    const left = (ends - now) / 1000;
    if (left > 1) words += ` · about ${clockTime(left)} left`;
  }
  if (clock.textContent !== words) clock.textContent = words;
};

element.addEventListener("click", (event) => {
  const stage = event.target.closest(".stage");
  if (stage && stage.querySelector("img")) trigger("select", { value: stage.dataset.stage });
});

watch("value", () => {
  const section = element.querySelector(".stages");
  takeBeat(section);
  const beat = element.querySelector(".beat");
  if (beat) beat.getAnimations().forEach((animation) => { animation.cancel(); animation.play(); });
  showClock();
  followRun(section.dataset.state);
});

showClock();
setInterval(showClock, 250);
