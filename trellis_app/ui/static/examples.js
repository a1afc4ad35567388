// A click on a thumbnail loads that example.
element.addEventListener("click", (event) => {
  const example = event.target.closest(".example");
  if (example) trigger("select", { index: Number(example.dataset.index) });
});
