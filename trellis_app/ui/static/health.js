// Details stay open when the numbers change.
let open = false;
element.addEventListener("toggle", (event) => { open = event.target.open; }, true);
watch("value", () => { if (open) element.querySelector(".health").open = true; });
