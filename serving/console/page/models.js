import { code, definitionList, element, formatNumber, heading, plural } from "./elements.js";
import { getJson } from "./service.js";

export async function models() {
  const { in_force: inForce, published } = await getJson("/v1/models");
  const table = `${formatNumber(inForce.items)} items, ${formatNumber(inForce.items_on_sale)} on sale, ${inForce.item_table_mib} MiB`;
  return [
    heading("Models"),
    element("h2", {}, "In use by this service"),
    definitionList([["ranker", inForce.ranker], ["vocabulary", inForce.vocabulary], ["item table", table]]),
    element("h2", {}, "Published"),
    ...published.map(publishedModel),
  ];
}

function publishedModel(model) {
  const facts = Object.entries(model.facts).map(([name, value]) => [name.replaceAll("_", " "), formatFact(name, value)]);
  const others = model.other_versions.map((version) => element("li", {}, code(version)));
  return element("section", {},
    element("h3", {}, model.kind),
    model.error ? element("p", { class: "alert", role: "alert" }, model.error) : definitionList([["version", code(model.version)], ...facts]),
    others.length ? element("details", {}, element("summary", {}, plural(others.length, "other version")), element("ul", {}, others)) : "");
}

function formatFact(name, value) {
  if (name.endsWith("_ms")) return new Date(value).toISOString();
  return typeof value === "object" && value !== null ? code(JSON.stringify(value)) : String(value);
}
