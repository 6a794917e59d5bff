// Builds elements from text. Nothing that comes from a catalog is ever parsed as HTML.

export const element = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function fill(created, attributes = {}, children = []) {
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) created.setAttribute(attribute, "");
    else if (value !== false && value !== undefined && value !== null) created.setAttribute(attribute, value);
  }
  created.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return created;
}

// columns: [{name, kind}], where a kind is "number" or "bar"; rows: lists of texts or elements, whose first cell is the row's header.
// `label` tells the table from others of its caption on the page. The roles are those of the tags: browsers drop them where the style sheet stacks the cells of a row.
export function table(caption, columns, rows, placeholder, label = caption) {
  if (!rows.length) return element("p", { class: "empty" }, placeholder);
  const head = columns.map((column) => element("th", { scope: "col", role: "columnheader", class: column.kind }, column.name));
  const cell = (content, index) => (index
    ? element("td", { role: "cell", class: columns[index].kind, "data-column": columns[index].name }, content)
    : element("th", { scope: "row", role: "rowheader" }, content));
  return scrollable(label, element("table", { role: "table", class: columns.length > 3 ? "wide" : undefined },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head)),
    element("tbody", { role: "rowgroup" }, rows.map((cells) => element("tr", { role: "row" }, cells.map(cell))))));
}

export const scrollable = (label, ...content) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, content);

// Leaves out pairs without a value.
export function definitionList(pairs) {
  const present = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return element("dl", {}, present.map(([name, value]) => [element("dt", {}, name), element("dd", {}, ...[value].flat())]).flat());
}

export const link = (page, id, text) => element("a", { href: `#/${page}/${encodeURIComponent(id)}` }, text || id);
export const itemLink = (item) => link("item", item.item_id, item.title);
export const heading = (text) => element("h1", { tabindex: "-1" }, text);
export const spaced = (name) => name.replaceAll("_", " ");
export const code = (text) => element("code", {}, text);
export const formatNumber = (value) => value.toLocaleString("en", { maximumSignificantDigits: 15 });
export const plural = (count, noun) => `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;
export const formatTime = (ms) => (ms ? `${formatDay(ms)} ${formatMinute(ms)} UTC` : "");
export const formatDay = (ms) => new Date(ms).toISOString().slice(0, 10);
export const formatMinute = (ms) => new Date(ms).toISOString().slice(11, 16);
export const time = (ms, text = formatTime(ms)) => (ms ? element("time", { datetime: new Date(ms).toISOString() }, text) : null);
