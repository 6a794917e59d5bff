import { count, element, facts, heading, several } from "./elements.js";
import { ask } from "./service.js";

export async function models() {
  const told = await ask("/v1/models");
  const force = told.in_force;
  return [
    heading("Models"),
    element("h2", {}, "In force in this service"),
    facts([["ranker", force.ranker], ["vocabulary", force.vocabulary],
      ["item table", `${count(force.items)} items, ${count(force.items_on_sale)} on sale, ${force.item_table_mib} MiB`]]),
    element("h2", {}, "Published"),
    ...told.published.map(kind),
  ];
}

const kind = (of) => element("section", {},
  element("h3", {}, of.kind),
  of.broken ? element("p", { class: "alert", role: "alert" }, of.broken) : facts([["version", element("code", {}, of.version)], ...Object.entries(of.facts).map(([name, value]) => [name.replaceAll("_", " "), plain(name, value)])]),
  of.others.length ? element("details", {}, element("summary", {}, several(of.others.length, "other version")), element("ul", {}, of.others.map((version) => element("li", {}, element("code", {}, version))))) : "");

const plain = (name, value) => {
  if (name.endsWith("_ms")) return new Date(value).toISOString();
  return typeof value === "object" && value !== null ? element("code", {}, JSON.stringify(value)) : String(value);
};
