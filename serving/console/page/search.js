import { element, itemLink, link } from "./elements.js";
import { navigate } from "./navigation.js";
import { getJson } from "./service.js";

// A form that opens the page of an id.
export function searchForm(page, label) {
  const field = element("input", { id: "id", required: true, maxlength: 128, size: 28, autocomplete: "off", spellcheck: "false" });
  const form = element("form", { role: "search" }, element("div", {}, element("label", { for: "id" }, label), field), element("button", {}, "Search"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    navigate(`#/${page}/${encodeURIComponent(field.value.trim())}`);
  });
  return form;
}

// Starting points for people who know no id.
export async function popularItems() {
  const { items } = await getJson("/v1/recent");
  return suggestions("Most popular", items.map((item) => [itemLink(item), ` ${item.item_id}`]));
}

export async function activeUsers() {
  const { users } = await getJson("/v1/recent");
  return suggestions("Recently active", users.map((userId) => link("user", userId)));
}

function suggestions(title, entries) {
  const list = element("ul", {}, entries.map((entry) => element("li", {}, entry)));
  return [element("h2", {}, title), entries.length ? list : element("p", { class: "empty" }, "None yet.")];
}
