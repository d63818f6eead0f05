"use strict";
// Draws the figures of the page and moves those that follow the checkpoint slider. `data` is made by html.py.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { steps, labels, shape } = data;
  const [nHeads, nLayers] = shape;
  const touch = !matchMedia("(hover: hover) and (pointer: fine)").matches; // there a drag scrolls the page
  const config = {
    displaylogo: false,
    responsive: true,
    plotlyServerURL: "",
    modeBarButtons: [["toImage", "resetScale2d"]],
    displayModeBar: touch ? false : "hover",
  };

  const typed = (text, Type) => {
    const raw = atob(text);
    return new Type(Uint8Array.from(raw, (letter) => letter.charCodeAt(0)).buffer);
  };
  // [checkpoint, head, layer], so that a row of a map lies in one piece.
  const scores = typed(data.scores, Float32Array);
  const stderrs = typed(data.stderrs, Float32Array);
  const ranks = typed(data.ranks, Float32Array);
  const levels = typed(data.levels, Float32Array); // of all checkpoints, or once for all of them
  const rows = (values, at, n, width) =>
    Array.from({ length: n }, (_, row) => values.subarray(at + row * width, at + (row + 1) * width));
  const digits = (value) => (Number.isNaN(value) ? "-" : value.toFixed(3));
  const size = nHeads * nLayers;

  const leadingHeads = (c, most) => {
    const found = [];
    for (let i = 0; i < size; i++) {
      const score = scores[c * size + i];
      if (score > 0) found.push({ layer: i % nLayers, head: Math.floor(i / nLayers), score, at: c * size + i });
    }
    found.sort((a, b) => b.score - a.score || a.layer - b.layer || a.head - b.head);
    const above = found.filter((head) => head.score > levels[head.at % levels.length]);
    return above.length ? above.slice(0, most) : found.slice(0, 3);
  };

  const hover = (c) =>
    Array.from({ length: nHeads }, (_, head) =>
      Array.from({ length: nLayers }, (_, layer) => {
        const at = c * size + head * nLayers + layer;
        if (Number.isNaN(scores[at])) return `<b>L${layer}H${head}</b><br>not observable`;
        const error = Number.isNaN(stderrs[at]) ? "" : ` ± ${digits(stderrs[at])} standard error`;
        return `<b>L${layer}H${head}</b><br>score ${digits(scores[at])}${error}<br>counts above ${digits(levels[at % levels.length])}<br>rank ${ranks[at]} of ${data.observed[c]}`;
      }),
    );

  const showHeads = (c) => {
    const leading = leadingHeads(c, data.ringed);
    const unseen = [[], []];
    for (let i = 0; i < size; i++) {
      if (Number.isNaN(scores[c * size + i])) {
        unseen[0].push(i % nLayers);
        unseen[1].push(Math.floor(i / nLayers));
      }
    }
    Plotly.restyle("heads", { z: [rows(scores, c * size, nHeads, nLayers)], text: [hover(c)] }, [0]);
    Plotly.restyle(
      "heads",
      { x: [unseen[0], leading.map((head) => head.layer)], y: [unseen[1], leading.map((head) => head.head)] },
      [1, 2],
    );
    for (const list of document.querySelectorAll(".leading")) {
      list.replaceChildren(
        ...leading.map((head) => {
          const item = document.createElement("li");
          const name = document.createElement("b");
          name.textContent = `L${head.layer}H${head.head}`;
          const error = Number.isNaN(stderrs[head.at]) ? "" : ` ± ${stderrs[head.at].toPrecision(1)}`;
          item.append(name, `${head.score.toFixed(2)}${error}`);
          return item;
        }),
      );
    }
  };

  const showGrids = (c) => {
    for (const [id, grid] of Object.entries(data.grids)) {
      const [nRows, nColumns] = grid.shape;
      grid.values ??= typed(grid.data, Float32Array);
      Plotly.restyle(id, { z: [rows(grid.values, c * nRows * nColumns, nRows, nColumns)] }, [0]);
    }
  };

  const show = (c) => {
    for (const slider of document.querySelectorAll(".slider")) {
      slider.querySelector("output").textContent = labels[c];
      const input = slider.querySelector("input");
      if (input) {
        input.value = c;
        input.setAttribute("aria-valuetext", labels[c]);
      }
    }
    showHeads(c);
    showGrids(c);
    document.body.dataset.checkpoint = steps[c];
  };

  const plots = Object.entries(data.figures);
  for (const [id, figure] of plots) {
    if (!touch) figure.layout.dragmode = "zoom";
    Plotly.newPlot(id, figure.data, figure.layout, config);
  }
  show(steps.length - 1);
  for (const input of document.querySelectorAll(".slider input")) {
    input.addEventListener("input", () => show(Number(input.value)));
  }
  // On paper there is one column, and a page is not measured before it is printed.
  const fit = (size) => plots.forEach(([id]) => Plotly.relayout(id, size));
  addEventListener("beforeprint", () => fit({ width: 660, autosize: false }));
  addEventListener("afterprint", () => fit({ width: null, autosize: true }));
  document.body.dataset.drawn = plots.length;
})();
