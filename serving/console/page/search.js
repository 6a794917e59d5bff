import { element, link } from "./elements.js";
import { ask } from "./service.js";

// A form that goes to the page of an id.
export function search(page, name) {
  const field = element("input", { id: "id", required: true, maxlength: 128, size: 28, autocomplete: "off", spellcheck: "false" });
  const form = element("form", { role: "search" }, element("div", {}, element("label", { for: "id" }, name), field), element("button", {}, "Look"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(`#/${page}/${encodeURIComponent(field.value.trim())}`);
  });
  return form;
}

// To an address, also where one is there already: to look again.
export function go(hash) {
  if (location.hash === hash) dispatchEvent(new Event("hashchange"));
  else location.hash = hash;
}

// Somewhere to begin, for who knows no id.
export async function begin(page) {
  const recent = await ask("/v1/recent");
  const items = recent.items.map(([id, title]) => [link("item", id, title), ` ${id}`]);
  const found = page === "item" ? items : recent.users.map((id) => [link("user", id)]);
  const title = page === "item" ? "Most popular" : "Active recently";
  return [element("h2", {}, title), found.length ? element("ul", {}, found.map((of) => element("li", {}, of))) : element("p", { class: "empty" }, "Nothing yet.")];
}
