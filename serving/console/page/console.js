// Routing: the part of the address after # names the page, so every view has a link and the back button works.

import { element, heading } from "./elements.js";
import { item } from "./item.js";
import { models } from "./models.js";
import { rank } from "./rank.js";
import { stream } from "./stream.js";
import { user } from "./user.js";

const PAGES = { stream, item, user, rank, models };
const noPage = () => { throw Object.assign(new Error("the console has no such page"), { status: 404 }); };
const main = document.getElementById("main");
const status = document.getElementById("status");
let latest = 0; // number of the latest navigation

async function show(navigated) {
  const number = ++latest;
  const [path, query] = location.hash.slice(2).split("?");
  const [name, ...rest] = path.split("/");
  const page = name || "stream";
  const parameters = new URLSearchParams(query);
  announceLoading(page);
  const parts = await render(Object.hasOwn(PAGES, page) ? PAGES[page] : noPage, rest.join("/"), parameters);
  if (number !== latest) return; // the user has gone elsewhere meanwhile
  const title = parts[0].textContent;
  main.replaceChildren(...parts);
  main.removeAttribute("aria-busy");
  status.textContent = title;
  document.title = `${title} · ReaSeq console`;
  if (navigated) parts[0].focus();
}

// The page's elements, the heading first; if the page cannot be shown, an error and the page's form.
async function render(page, id, parameters) {
  try {
    return await page(decodeURIComponent(id), parameters);
  } catch (error) {
    if (!(error.status >= 0)) console.error(error);
    const title = error.status === 404 ? "Not found" : "Something went wrong";
    const form = page.form ? [page.form(Object.fromEntries(parameters))] : [];
    return [heading(title), element("p", { class: "alert", role: "alert" }, `${error.message}.`), ...form];
  }
}

function announceLoading(page) {
  for (const anchor of document.querySelectorAll("nav a")) {
    if (anchor.getAttribute("href") === `#/${page}`) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  status.textContent = "Loading";
  main.setAttribute("aria-busy", "true");
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the page, not an anchor
  main.focus();
});
addEventListener("hashchange", () => show(true));
show(false);
