(() => {
  const { data, find, make, pager } = page;
  if (!data.length) return;

  const choices = { benchmark: find("benchmark"), left: find("left"), right: find("right"), order: find("order") };
  const fill = (select, names) => select.replaceChildren(...names.map((name, i) => {
    const option = make("option", "", name);
    option.value = i;
    return option;
  }));
  const chosen = () => data[Number(choices.benchmark.value)];
  const sides = () => [...new Set([Number(choices.left.value), Number(choices.right.value)])];

  const answer = (prompt, side, best) => {
    const score = prompt.scores[side];
    const box = make("div", score !== null && score === best ? "better" : "");
    const head = make("h3");
    head.append(make("b", "", chosen().models[side]), score === null ? "" : ` · ${score}`);
    const text = prompt.answers[side];
    box.append(head);
    const verdict = prompt.verdicts[side];
    if (text !== null) box.append(make("p", "text", text));
    else if (verdict === null) box.append(make("p", "note", "no answer in the results"));
    if (verdict !== null) box.append(make("p", "text judged", verdict));
    return box;
  };
  const card = (prompt) => {
    const box = make("article", "card example");
    const head = make("header");
    head.append(make("span", "", `prompt ${prompt.id}`));
    box.append(head);
    if (prompt.prompt !== null) box.append(make("p", "text prompt", prompt.prompt));
    const shown = sides();
    const scores = shown.map((side) => prompt.scores[side]).filter((score) => score !== null);
    const best = scores.length > 1 && Math.min(...scores) < Math.max(...scores) ? Math.max(...scores) : undefined;
    const answers = make("div", "answers");
    answers.append(...shown.map((side) => answer(prompt, side, best)));
    box.append(answers);
    return box;
  };

  const hits = () => {
    const words = find("search").value.trim().toLowerCase();
    const [left, right] = [Number(choices.left.value), Number(choices.right.value)];
    const found = chosen().prompts.filter((prompt) => {
      if (!words) return true;
      const texts = [prompt.prompt, `prompt ${prompt.id}`, ...[left, right].flatMap((side) => [prompt.answers[side], prompt.verdicts[side]])];
      return texts.some((text) => text !== null && text.toLowerCase().includes(words));
    });
    const sign = Number(choices.order.value);
    if (!sign) return found;
    const gap = (prompt) => sign * (prompt.scores[left] - prompt.scores[right]);
    const judged = found.filter((prompt) => prompt.scores[left] !== null && prompt.scores[right] !== null);
    return judged.sort((a, b) => gap(b) - gap(a));
  };
  const prompts = pager({ perPage: 5, noun: "prompts", hits, card, list: find("prompts") });

  // What scrolls can be reached with the keyboard.
  new MutationObserver(() => {
    for (const text of document.querySelectorAll("#prompts .text")) {
      if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
    }
  }).observe(find("prompts"), { childList: true });

  const start = () => {
    const { models, first, prompts: shown, of } = chosen();
    fill(choices.left, models);
    fill(choices.right, models);
    choices.left.value = first[0];
    choices.right.value = first.at(-1);
    find("read-note").textContent = shown.length === of
      ? `All ${of} prompts; scores stand beside the names.`
      : `${shown.length} of ${of} prompts, spread evenly; scores stand beside the names.`;
    prompts.restart();
  };
  fill(choices.benchmark, data.map((one) => one.name));
  choices.benchmark.addEventListener("change", start);
  for (const name of ["left", "right", "order"]) choices[name].addEventListener("change", prompts.restart);
  find("search").addEventListener("input", prompts.restart);
  start();
})();
