"use strict";
// What the scripts of all pages share. Everything from the data is set as text, never as markup.
const page = (() => {
  const root = document.documentElement;
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);

  // Theme: the button's, else ?theme=dark or ?theme=light, else the system's.
  let chosen = new URLSearchParams(location.search).get("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => { root.dataset.theme = name; };
  setTheme(chosen || (system.matches ? "dark" : "light"));
  system.addEventListener("change", (event) => { if (!chosen) setTheme(event.matches ? "dark" : "light"); });
  find("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    setTheme(chosen);
  });
  addEventListener("beforeprint", () => setTheme("light"));

  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // What scrolls can be reached and scrolled by keys, too.
  const reachable = (within) => {
    for (const element of within.querySelectorAll(".scroll, .card, .text")) {
      const overflows = element.scrollWidth > element.clientWidth || element.scrollHeight > element.clientHeight;
      if (overflows) element.tabIndex = 0; else element.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => reachable(document));
  addEventListener("resize", () => reachable(document));

  // A list of cards, a few at a time: `hits` gives what is to be shown, `card` makes an element of one.
  const pager = ({ perPage, noun, hits, card, list }) => {
    let number = 0;
    const show = () => {
      const found = hits();
      const pages = Math.max(1, Math.ceil(found.length / perPage));
      number = Math.min(Math.max(number, 0), pages - 1);
      list.replaceChildren(...found.slice(number * perPage, (number + 1) * perPage).map(card));
      reachable(list);
      find("hits").textContent = found.length ? `${found.length} ${noun}, page ${number + 1} of ${pages}` : "nothing found";
      find("before").disabled = number === 0;
      find("after").disabled = number >= pages - 1;
    };
    const turn = (by) => { number += by; show(); };
    find("before").addEventListener("click", () => turn(-1));
    find("after").addEventListener("click", () => turn(1));
    return { restart: () => { number = 0; show(); } };
  };
  return { data, find, make, pager };
})();
