// A click on a row that has no file yet asks the server for it; the download starts when the file is there.
let open = false;
let awaited = null;

const rowOf = (key) => element.querySelector(`.format[data-format="${key}"]`);
const markAwaited = () => {
  const row = awaited && rowOf(awaited);
  if (row) row.dataset.state = "making";
};

element.addEventListener("toggle", (event) => { open = event.target.open; }, true);

element.addEventListener("click", (event) => {
  const button = event.target.closest("button.format-act");
  if (!button || awaited) return;
  awaited = button.closest(".format").dataset.format;
  markAwaited();
  trigger("select", { value: awaited });
});

watch("value", () => {
  const details = element.querySelector(".more");
  if (open) details.open = true;
  const row = awaited && rowOf(awaited);
  const link = row && row.querySelector("a.format-act");
  if (link || !row || row.dataset.state === "failed") awaited = null;
  if (link) link.click();
  markAwaited();
});
