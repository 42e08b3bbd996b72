(() => {
  const { data, find, make, pager } = page;

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
      const text = String(Number(tau.toPrecision(4)));
      find("tau-text").textContent = "τ = " + text;
      // Unrounded: rounded up it would route the pairs at the margin itself too.
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

  // Examples.
  const buckets = { easy: "Easy pairs", middle: "Middle pairs", hard: "Hard pairs", any: "Random pairs" };
  const title = (name) => data.titles[name] || buckets[name] || name;
  const pieces = (target, parts) => parts.forEach((part, i) => {
    target.append(i % 2 ? make("mark", "", part) : document.createTextNode(part));
  });
  const answer = (side, parts) => {
    const box = make("div", side);
    box.append(make("h4", "", side));
    const text = make("p", "text");
    pieces(text, parts);
    box.append(text);
    return box;
  };
  const card = (example) => {
    const box = make("article", "card example");
    const head = make("header");
    head.append(make("span", "", `row ${example.row}`));
    for (const [name, value] of Object.entries(example.numbers)) {
      head.append(make("span", "", `${name} ${Number(value.toPrecision(4))}`));
    }
    for (const name of example.of) head.append(make("span", "tag", title(name)));
    box.append(head, make("p", "text prompt", example.prompt));
    if (example.note) box.append(make("p", "text prompt remark", example.note));
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
  const searchable = data.examples.map((example) =>
    [example.prompt, example.chosen.join(""), example.rejected.join(""), example.note, "row " + example.row].join("\n").toLowerCase());
  const examples = pager({
    perPage: 5,
    noun: "shown pairs",
    list: find("examples-list"),
    card,
    hits: () => {
      const words = find("search").value.trim().toLowerCase();
      return data.examples.filter((example, i) =>
        (!choice.value || example.of.includes(choice.value)) && (!words || searchable[i].includes(words)));
    },
  });
  find("search").addEventListener("input", examples.restart);
  choice.addEventListener("change", examples.restart);
  for (const button of document.querySelectorAll("[data-kind]")) {
    if (!names.includes(button.dataset.kind)) { button.remove(); continue; }
    button.addEventListener("click", () => {
      choice.value = button.dataset.kind;
      find("search").value = "";
      examples.restart();
      find("examples").scrollIntoView();
      find("examples-list").focus({ preventScroll: true });
    });
  }
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, select")) return;
    event.preventDefault();
    find("search").focus();
  });
  examples.restart();
})();
