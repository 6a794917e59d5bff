import { element, heading, link, several, share, table, time } from "./elements.js";
import { begin, search } from "./search.js";
import { ask } from "./service.js";

export async function user(id) {
  if (!id) return [heading("User"), user.form(), ...(await begin("user"))];
  const view = await ask(`/v1/users/${encodeURIComponent(id)}`);
  const query = new URLSearchParams({ user: view.user_id, time: new Date(view.event_time_ms + 1000).toISOString().slice(0, 19) });
  return [
    heading(`User ${view.user_id}`),
    element("p", { class: "of" }, `${several(view.events_seen, "event")} seen, the last ${time(view.event_time_ms)}${view.taken_back_events ? `; ${view.taken_back_events} taken back` : ""}${view.forgotten_ms ? `; forgotten up to ${time(view.forgotten_ms)}` : ""}.`),
    user.form(),
    element("p", {}, element("a", { href: `#/rank?${query}` }, "Rank for this user, just after the last event")),
    element("div", { class: "columns" },
      element("section", {}, element("h2", {}, "What the log saw"),
        table("Newest first", [{ name: "item" }, { name: "did" }, { name: "when" }],
          view.history.map((of) => [link("item", of.item_id, of.title || of.item_id), of.type, time(of.time_ms)]), "Nothing.")),
      element("section", {}, element("h2", {}, "What was inferred"), ...inferred(view))),
  ];
}
user.form = () => search("user", "User");

function inferred(view) {
  const shown = table("Most confident first: no log saw any of it", [{ name: "item" }, { name: "confidence" }],
    view.inferred.map((of) => [link("item", of.item_id, of.title || of.item_id), share(of.confidence, "confidence")]), "Nothing yet.");
  if (!view.inferred_by) return [shown];
  const late = view.behind_events ? element("p", { class: "note" }, `${several(view.behind_events, "newer event")} not in it yet.`) : null;
  return [late, shown, element("p", { class: "of" }, `By model ${view.inferred_by}, as of ${time(view.inferred_as_of_ms)}.`)].filter(Boolean);
}
