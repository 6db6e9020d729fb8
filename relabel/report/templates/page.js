"use strict";
// Shows of the examples those that the form asks for. Without this script all of them are shown.
for (const finder of document.querySelectorAll(".finder")) {
  const examples = [...document.querySelectorAll("article[data-kind]")];
  const words = new Map(examples.map((one) => [one, one.textContent.toLowerCase()]));
  const shown = finder.querySelector("output");
  const show = () => {
    const wanted = finder.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fields = [...finder.querySelectorAll("select")].filter((field) => field.value !== "");
    let count = 0;
    for (const one of examples) {
      const fits = fields.every((field) => one.dataset[field.name] === field.value.slice(1))
        && wanted.every((word) => words.get(one).includes(word));
      one.hidden = !fits;
      count += fits;
    }
    shown.value = `${count} of ${examples.length} shown`;
  };
  finder.addEventListener("input", show);
  finder.addEventListener("submit", (event) => event.preventDefault());
  finder.hidden = false;
  show();
}
