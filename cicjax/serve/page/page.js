"use strict";
// The whole page: talk, correct, and watch what it learns. Texts enter as text; the one piece of mark-up is the
// coloured row, which the server makes of escaped parts.
(() => {
  const $ = id => document.getElementById(id);
  const turns = [];  // the conversation as the client keeps it
  const waiting = new Map();  // lesson -> exchange that is to show what became of it
  let key = "", plain = true, number = Math.floor(Math.random() * 1000), refreshing = null, begun = 0, newest = 0, drawn = "";

  const make = (name, props = {}, ...children) => {
    const element = document.createElement(name);
    for (const [prop, value] of Object.entries(props)) {
      if (prop in element) element[prop] = value; else element.setAttribute(prop, value);
    }
    element.append(...children.filter(child => child !== null && child !== undefined));
    return element;
  };
  const button = (text, act, props = {}) => {
    const made = make("button", { type: "button", textContent: text, ...props });
    made.addEventListener("click", act);
    return made;
  };
  const percent = share => (100 * share).toFixed(0) + " %";

  const call = async (method, path, body, more = {}) => {
    const headers = { ...more };
    if (key) headers.Authorization = "Bearer " + key;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    if (answer.status === 401) $("key").hidden = false;
    if (!answer.ok) {
      const said = await answer.json().catch(() => null);
      throw new Error(said && said.error ? said.error.message : "the server answered " + answer.status);
    }
    return answer;
  };
  const get = async path => (await call("GET", path)).json();
  const post = async (path, body, more) => (await call("POST", path, body, more)).json();

  // Server-sent events of a response, one after another: {event, data}.
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
        const record = {};
        for (const line of rest.slice(0, end).split("\n")) {
          const colon = line.indexOf(": ");
          if (colon > 0) record[line.slice(0, colon)] = line.slice(colon + 2);
        }
        if (record.data && record.data !== "[DONE]") yield { event: record.event, data: JSON.parse(record.data) };
      }
    }
  }

  // An answer as it is drawn, into `where`; gives {id, version, text}.
  const answer = async (messages, model, where) => {
    const stream = await call("POST", "v1/chat/completions", { model, messages, stream: true, temperature: 0 });
    const got = { id: "", version: "", text: "" };
    for await (const { data } of events(stream)) {
      if (data.error) throw new Error(data.error.message);
      got.id = data.id;
      got.version = data.model.split("@")[1];
      for (const choice of data.choices) {
        if (choice.delta.content) got.text += choice.delta.content;
      }
      where.textContent = got.text;
    }
    return got;
  };

  const complain = (where, error) => where.replaceChildren(make("span", { className: "problem", textContent: error.message }));

  const ask = async question => {
    const goOn = !plain && $("go-on").checked;
    if (!goOn) turns.length = 0;
    turns.push({ role: "user", content: question });
    const messages = turns.slice();
    const who = make("p", { className: "who by-agent", textContent: "agent" });
    const said = make("p", { className: "said by-agent" });
    const under = make("div");
    const exchange = make("li", { className: "exchange streaming", "aria-busy": "true" },
      make("p", { className: "who by-user", textContent: "you" }),
      make("p", { className: "said by-user", textContent: question }), who, said, under);
    $("talk").append(exchange);
    exchange.scrollIntoView({ block: "nearest" });
    try {
      const got = await answer(messages, "cicjax", said);
      turns.push({ role: "assistant", content: got.text });
      who.replaceChildren("agent ", make("small", { textContent: "version " + got.version }));
      under.append(feedback({ ...got, messages, exchange }));
    } catch (error) {
      complain(said, error);
      turns.pop();
    }
    exchange.classList.remove("streaming");
    exchange.setAttribute("aria-busy", "false");
    refresh();
  };

  // Right, wrong, or what it should have been.
  const feedback = shown => {
    const receipt = make("p", { className: "receipt", role: "status" });
    const more = make("div");
    const form = make("form", { hidden: true });
    const judge = async (verdict, pressed, other) => {
      try {
        await post("v1/feedback", { id: shown.id, verdict });
        pressed.setAttribute("aria-pressed", "true");
        other.setAttribute("aria-pressed", "false");
        receipt.textContent = verdict === "right" ? "noted as right; its own words are never learned" : "noted as wrong; write what it should have been, and it learns that";
        refresh();
      } catch (error) { complain(receipt, error); }
    };
    const right = button("Right", () => judge("right", right, wrong), { "aria-pressed": "false" });
    const wrong = button("Wrong", () => { judge("wrong", wrong, right); open(); }, { "aria-pressed": "false" });
    const write = button("Write the answer", () => open(), { "aria-expanded": "false" });
    const id = "answer-" + shown.id;
    const field = make("textarea", { id, rows: 3, required: true });
    const open = async () => {
      form.hidden = false;
      write.setAttribute("aria-expanded", "true");
      field.focus();
    };
    const solution = button("The task's solution", async () => {
      try {
        const known = await get("v1/attempts/" + shown.id);
        if (known.solution === null) receipt.textContent = "the task does not know this question";
        else { field.value = known.solution; field.focus(); }
      } catch (error) { complain(receipt, error); }
    }, { hidden: $("task").hidden });
    form.append(make("label", { htmlFor: id, textContent: "What the answer should have been" }), field,
      make("p", { className: "buttons" }, make("button", { className: "main", textContent: "Teach" }),
        button("Start from its answer", () => { field.value = shown.text; field.focus(); }), solution));
    form.addEventListener("submit", event => { event.preventDefault(); teach(shown, field.value, receipt, more, form); });
    return make("div", {}, make("p", { className: "buttons" }, right, wrong, write), form, receipt, more);
  };

  const teach = async (shown, correction, receipt, more, form) => {
    try {
      const told = await post("v1/feedback", { id: shown.id, correction }, { "Idempotency-Key": crypto.randomUUID() });
      form.hidden = true;
      if (told.lesson === null) { receipt.textContent = "no lesson: " + told.reason; return; }
      receipt.textContent = `lesson ${told.lesson}, in the log; it waits for its step`;
      waiting.set(told.lesson, { shown, receipt, more });
      refresh();
    } catch (error) { complain(receipt, error); }
  };

  // What became of lessons that wait.
  const settle = async versions => {
    for (const version of versions) {
      for (const { lesson } of version.lessons) {
        const found = waiting.get(lesson);
        if (!found) continue;
        if (version.state === "planned") {
          found.receipt.textContent = `lesson ${lesson}, being learned as version ${version.version}`;
          continue;
        }
        waiting.delete(lesson);
        const with_ = version.lessons.length > 1 ? ` with ${version.lessons.length - 1} others` : "";
        found.receipt.textContent = `lesson ${lesson}, learned with version ${version.version}${with_}` +
          (version.state === "rejected" ? ", which the gate rejected: " + (version.gate.reason || "") : "");
        try { await show(found, version); } catch (error) { found.more.append(make("p", { className: "problem", textContent: error.message })); }
      }
    }
  };

  const show = async ({ shown, more }, version) => {
    const detail = await get(`v1/attempts/${shown.id}?before=${version.parent}&after=${version.version}`);
    const row = detail.rows[detail.rows.length - 1];
    const rows = make("div");
    for (const each of detail.rows) {
      const template = make("template");
      template.innerHTML = each.html;
      rows.append(template.content);
    }
    const pair = make("div", { className: "pair" });
    more.replaceChildren(
      make("h3", { textContent: "What it learned, word by word" }),
      make("p", { className: "note", textContent: `log p under version ${version.parent} and version ${version.version}` }),
      words(row.tokens),
      make("details", {}, make("summary", { textContent: "The rows as they were learned" }), rows),
      make("h3", { textContent: "The same question to both versions" }), pair);
    await Promise.all([version.parent, version.version].map(async n => {
      const said = make("p", { className: "said by-agent" });
      pair.append(make("div", {}, make("h4", { textContent: "version " + n }), said));
      try { await answer(shown.messages, "cicjax@" + n, said); } catch (error) { complain(said, error); }
    }));
  };

  const words = tokens => {
    const list = make("ul", { className: "words" });
    let word = null;
    const close = () => {
      if (!word) return;
      const known = word.after !== null && word.before !== null, gain = word.after - word.before;
      const kind = known && gain > 0.05 ? "up" : known && gain < -0.05 ? "down" : "";
      const mark = { up: "▲ ", down: "▼ ", "": "" }[kind];
      const numbers = [word.before, word.after].map(value => value === null ? "?" : value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−"));
      list.append(make("li", { className: kind }, make("b", { textContent: word.text.trim() || "␣" }),
        make("small", { textContent: mark + numbers.join(" → ") })));
      word = null;
    };
    for (const token of tokens) {
      if (!token.weight) { close(); continue; }
      if (word && /^\s|^<\|/.test(token.text)) close();
      word = word || { text: "", before: 0, after: 0 };
      word.text += token.text;
      for (const name of ["before", "after"]) {
        word[name] = word[name] === null || token[name] === null ? null : word[name] + token[name];
      }
    }
    close();
    return list;
  };

  const drawVersions = versions => {
    const now = JSON.stringify(versions);
    if (now === drawn) return;
    drawn = now;
    const focused = $("versions").contains(document.activeElement) && document.activeElement.ariaLabel;
    $("versions").replaceChildren(...versions.slice().reverse().map(version => {
      const gate = version.gate, by = [...new Set(version.lessons.map(each => each.source))].join(", ");
      const lines = [version.parent === null ? "as it was made" :
        `${version.lessons.length} ${version.lessons.length === 1 ? "lesson" : "lessons"} of ${by}, from version ${version.parent}`];
      if (gate.problems) lines.push(`gate: right ${gate.right} of ${gate.problems} (serving ${gate.right_serving}, anchor ${gate.right_anchor})`);
      if (gate.reason) lines.push(gate.reason);
      const can = !version.serving && !["planned", "forgotten"].includes(version.state);
      const act = can ? button("Serve it", async event => {
        event.target.disabled = true;
        try {
          await post(`v1/versions/${version.version}/serve`, {});
        } catch (error) {
          $("status").textContent = error.message;
          event.target.disabled = false;
        }
        refresh();
      }, { "aria-label": `Serve version ${version.version}` }) : null;
      const state = make("span", { className: version.state === "rejected" ? "bad" : "", textContent: " " + (version.serving ? "" : { served: "has served", planned: "being learned" }[version.state] || version.state) });
      const item = make("li", {}, make("strong", { textContent: "version " + version.version }), state,
        ...lines.map(line => make("p", { textContent: line })), act);
      if (version.serving) item.setAttribute("aria-current", "true");
      return item;
    }));
    // who is at a button stays at it
    if (focused) $("versions").querySelector(`[aria-label="${focused}"]`)?.focus();
  };

  const drawCurve = ({ all, versions }) => {
    $("accuracy").textContent = all.judged ?
      `${all.right} of ${all.judged} judged answers to new questions right: ${percent(all.accuracy)} (95 %: ${percent(all.low)} to ${percent(all.high)}); ${all.judged} of ${all.answers} were judged` :
      `nobody has judged an answer yet (${all.answers} to new questions)`;
    const judged = versions.filter(each => each.judged);
    $("curve").hidden = !judged.length;
    $("curve").tBodies[0].replaceChildren(...judged.map(each => make("tr", {},
      make("th", { scope: "row", textContent: each.version }), make("td", { textContent: percent(each.accuracy) }),
      make("td", { textContent: `${percent(each.low)} to ${percent(each.high)}` }),
      make("td", { textContent: `${each.judged} of ${each.answers}` }))));
  };

  const drawStatus = status => {
    plain = status.settings.format === "plain";
    $("going-on").hidden = plain;
    $("task").hidden = !status.task;
    const may = new Set(status.you.may);
    for (const id of ["learn", "pause"]) $(id).hidden = !may.has("admin");
    const paused = status.doing === "paused";
    $("pause").setAttribute("aria-pressed", String(paused));
    $("pause").textContent = paused ? "Go on learning" : "Pause learning";
    const waits = status.waiting ? `, ${status.waiting} ${status.waiting === 1 ? "lesson waits" : "lessons wait"}` : "";
    $("status").textContent = `version ${status.serving} serves; ${status.doing}${waits}` + (status.failure ? ": " + status.failure : "");
  };

  const refresh = () => refreshing = refreshing || (async () => {
    await new Promise(done => setTimeout(done, 100));
    refreshing = null;
    const turn = begun++;
    try {
      const [status, versions, curve] = await Promise.all([get("v1/status"), get("v1/versions"), get("v1/curve")]);
      if (turn < newest) return;  // what was asked later has been drawn
      newest = turn;
      drawStatus(status);
      drawVersions(versions.data);
      drawCurve(curve);
      await settle(versions.data);
    } catch (error) { $("status").textContent = error.message; }
  })();

  const follow = async () => {
    for (;;) {
      try {
        const stream = await call("GET", "v1/events");
        refresh();  // what happened while nobody listened
        for await (const _ of events(stream)) refresh();
      } catch { /* the server is away; ask again */ }
      await new Promise(done => setTimeout(done, 2000));
    }
  };

  $("ask").addEventListener("submit", event => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (!question) return;
    $("question").value = "";
    ask(question);
  });
  $("question").addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  });
  $("task").addEventListener("click", async () => {
    try {
      $("question").value = (await get("v1/problem?number=" + number++)).question;
      $("question").focus();
    } catch (error) { $("status").textContent = error.message; }
  });
  $("learn").addEventListener("click", () => post("v1/learn").then(refresh, error => { $("status").textContent = error.message; }));
  $("pause").addEventListener("click", () => {
    const paused = $("pause").getAttribute("aria-pressed") !== "true";
    post("v1/learn/pause", { paused }).then(refresh, error => { $("status").textContent = error.message; });
  });
  $("key").addEventListener("submit", event => {
    event.preventDefault();
    key = $("key-field").value.trim();
    $("key").hidden = true;
    refresh();
  });
  refresh();
  follow();
})();
