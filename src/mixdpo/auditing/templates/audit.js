(() => {
  const { data, find, make } = page;

  // Codes of languages as names.
  const languages = new Intl.DisplayNames(["en"], { type: "language" });
  for (const cell of document.querySelectorAll("[data-language]")) {
    const code = cell.dataset.language;
    if (/^[a-z]{2,3}$/.test(code)) cell.textContent = languages.of(code);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(button.dataset.text); button.textContent = "copied"; }
      catch { button.textContent = "select the text to copy it"; }
    });
  }

  // Plan preview.
  const plan = data.plan;
  if (plan) {
    const whole = new Intl.NumberFormat("en");
    const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
    const slider = find("tau");
    const bars = [...document.querySelectorAll("#margins .bar")];
    const line = document.querySelector("#margins .threshold");
    const show = (id, sft, text) => {
      find(id).firstElementChild.style.width = 100 * sft + "%";
      find(id + "-text").textContent = text;
    };
    const update = () => {
      const i = Number(slider.value);
      const tau = plan.threshold[i];
      const text = String(tau);
      find("tau-text").textContent = "τ = " + text;
      const recipe = "plan.threshold: " + tau;
      find("tau-line").textContent = recipe;
      find("tau-copy").dataset.text = recipe;
      const sft = plan.sft_pairs[i] / plan.pairs;
      const read = plan.sft_read[i] / ((plan.sft_read[i] + plan.preference_read[i]) || 1);
      slider.setAttribute("aria-valuetext", `${text}: ${percent(sft)} of pairs to SFT`);
      const steps = plan.steps * sft;
      show("by-pairs", sft, `${whole.format(plan.sft_pairs[i])} of ${whole.format(plan.pairs)} (${percent(sft)})`);
      show("by-steps", sft, `about ${steps < 10 ? steps.toFixed(1) : whole.format(Math.round(steps))} of ${whole.format(plan.steps)}`);
      show("by-read", read, `${whole.format(plan.sft_read[i])} (${percent(read)})`);
      show("by-mass", 1 - plan.preference_mass[i], percent(1 - plan.preference_mass[i]));
      for (const bar of bars) bar.classList.toggle("sft", Number(bar.dataset.at) < tau);
      const border = (bars.find((bar) => !bar.classList.contains("sft")) || bars.at(-1)).getAttribute("x");
      line.setAttribute("x1", border);
      line.setAttribute("x2", border);
    };
    slider.addEventListener("input", update);
    update();
  }

  // Examples, and all rows once they are unpacked.
  const buckets = { easy: "Easy pairs", middle: "Middle pairs", hard: "Hard pairs", any: "Random pairs" };
  const title = (name) => data.titles[name] || buckets[name] || name;
  const exampleOf = new Map(data.examples.map((example) => [example.pair, example]));
  let all = null;
  const rowOf = (pair) => all.rows[all.places ? all.places.get(pair) : pair] || [];
  const unpacked = async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const written = (kind, text) => {
    const element = make("p", kind, text);
    element.dir = "auto";
    return element;
  };
  const answer = (side, parts) => {
    const box = make("div", side);
    const text = written("text");
    parts.forEach((part, i) => text.append(i % 2 ? make("mark", "", part) : document.createTextNode(part)));
    box.append(make("h3", "", side), text);
    return box;
  };
  const plain = (pair) => {
    const [row, prompt, chosen, rejected] = rowOf(pair);
    const cut = (text) => text + (all.cut !== null && text.length >= all.cut ? " …" : "");
    const of = Object.keys(all.flagged).filter((name) => all.members[name].has(pair));
    return { row, prompt: cut(prompt), chosen: [cut(chosen)], rejected: [cut(rejected)], of, numbers: {} };
  };
  const card = (pair) => {
    const example = exampleOf.get(pair) || plain(pair);
    const box = make("article", "card example");
    const head = make("header");
    const link = make("a", "", `row ${example.row}`);
    link.href = "#row-" + encodeURIComponent(example.row);
    head.append(link);
    for (const [name, value] of Object.entries(example.numbers)) {
      head.append(make("span", "", `${name} ${Number(value.toPrecision(4))}`));
    }
    for (const name of example.of) head.append(make("span", "tag", title(name)));
    box.append(head, written("text prompt", example.prompt));
    if (example.note) box.append(written("text prompt remark", example.note));
    const answers = make("div", "answers");
    answers.append(answer("chosen", example.chosen), answer("rejected", example.rejected));
    box.append(answers);
    return box;
  };

  const choice = find("kind");
  const names = [...new Set(data.examples.flatMap((example) => example.of))];
  for (const name of names) {
    const option = make("option", "", title(name));
    option.value = name;
    choice.append(option);
  }
  const searchable = new Map();
  const wordsOf = (pair) => {
    if (!searchable.has(pair)) {
      const example = exampleOf.get(pair);
      const shown = example ? [example.prompt, example.chosen.join(""), example.rejected.join(""), example.note] : [];
      searchable.set(pair, [...shown, ...(all ? rowOf(pair).slice(1) : [])].join("\n").toLowerCase());
    }
    return searchable.get(pair);
  };
  const labelOf = (pair) => String(exampleOf.get(pair)?.row ?? rowOf(pair)[0]).toLowerCase();
  const hits = () => {
    const words = find("search").value.trim().toLowerCase();
    const kind = choice.value;
    const shown = data.examples.filter((example) => !kind || example.of.includes(kind)).map((example) => example.pair);
    let pairs = shown;  // those with marks first, then the others
    if (all && (kind in all.flagged || (words && !kind))) {
      const others = kind ? all.flagged[kind].map(([pair]) => pair) : all.pairs || all.rows.keys();
      pairs = [...new Set([...shown, ...others])];
    }
    const row = words.match(/^row (.+)$/);
    if (row) return pairs.filter((pair) => labelOf(pair) === row[1]);
    return words ? pairs.filter((pair) => wordsOf(pair).includes(words)) : pairs;
  };
  const examples = page.pager({ perPage: 5, noun: "rows", list: find("examples-list"), card, hits });
  find("search").addEventListener("input", examples.restart);
  choice.addEventListener("change", examples.restart);

  const show = (kind, words) => {
    choice.value = kind;
    find("search").value = words;
    examples.restart();
    find("examples").scrollIntoView();
    find("examples-list").focus({ preventScroll: true });
  };
  for (const button of document.querySelectorAll("[data-kind]")) {
    if (names.includes(button.dataset.kind)) button.addEventListener("click", () => show(button.dataset.kind, ""));
    else button.remove();
  }
  const showLinkedRow = () => {
    if (location.hash.startsWith("#row-")) show("", "row " + decodeURIComponent(location.hash.slice(5)));
  };
  addEventListener("hashchange", showLinkedRow);

  const download = (name) => {
    const lines = all.flagged[name].map(([pair, group, id]) => {
      const [row, prompt, chosen, rejected] = rowOf(pair);
      return JSON.stringify({ finding: name, row, pair_id: id, group, prompt, chosen, rejected }) + "\n";
    });
    const link = make("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = name + ".jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const downloads = [...document.querySelectorAll("[data-download]")];
  for (const button of downloads) button.addEventListener("click", () => download(button.dataset.download));
  const onlyExamples = () => {
    for (const button of downloads) button.remove();
    find("search").placeholder = "search the examples";
    find("searched").textContent = "This browser cannot unpack all rows: only the examples are searched.";
    showLinkedRow();
  };
  const everyRow = (found) => {
    const groups = Object.entries(found.flagged);
    found.members = Object.fromEntries(groups.map(([name, those]) => [name, new Set(those.map(([pair]) => pair))]));
    if (found.pairs) found.places = new Map(found.pairs.map((pair, place) => [pair, place]));
    all = found;
    searchable.clear();
    for (const button of downloads) if (!(button.dataset.download in all.flagged)) button.remove();
    const whole = new Intl.NumberFormat("en");
    const [there, of] = [whole.format(all.rows.length), whole.format(all.of)];
    find("searched").textContent = (all.pairs ? `${there} of ${of} rows are searched, the flagged ones first` : `All ${of} rows are searched`)
      + (all.cut === null ? "." : `, each text by its first ${whole.format(all.cut)} characters.`);
    showLinkedRow();
  };
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, select")) return;
    event.preventDefault();
    find("search").focus();
  });
  examples.restart();
  (data.rows ? unpacked(data.rows) : Promise.reject()).then(everyRow, onlyExamples);
})();
