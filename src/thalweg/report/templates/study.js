"use strict";
// Everything stands on the page without this; it filters, saves figures and opens what is folded.
(() => {
  const form = document.querySelector(".filter");
  const shown = document.getElementById("shown");
  const rules = document.head.appendChild(document.createElement("style"));
  const names = { mode: "mode", measure: "measure", at: "matching rule" };

  // "any" is the mode of networks without batch norm, which are the same in all.
  const fits = (element, chosen) => Object.entries(chosen).every(([key, value]) => {
    const own = element.dataset[key];
    return own === undefined || own === value || own === "any";
  });

  // A chart's rows have places of their own, so those that are left move up.
  const relayout = (chart, chosen) => {
    let y = Number(chart.dataset.top);
    for (const row of chart.querySelectorAll(".row, .foot")) {
      for (const part of row.querySelectorAll("[data-mode]")) {
        part.toggleAttribute("display", false);
        if (!fits(part, chosen)) part.setAttribute("display", "none");
      }
      const parts = [...row.querySelectorAll("[data-mode]")];
      const empty = parts.length > 0 && parts.every((part) => part.hasAttribute("display"));
      row.removeAttribute("display");
      if (empty || !fits(row, chosen)) { row.setAttribute("display", "none"); continue; }
      if (row.classList.contains("foot")) {
        for (const tall of chart.querySelectorAll("path.tall")) tall.setAttribute("d", tall.getAttribute("d").replace(/V.*/, `V${y}`));
        for (const tall of chart.querySelectorAll("rect.tall")) tall.setAttribute("height", y - Number(chart.dataset.top));
      }
      row.setAttribute("transform", `translate(0 ${y})`);
      y += Number(row.dataset.height);
    }
    chart.setAttribute("viewBox", `0 0 ${chart.viewBox.baseVal.width} ${y}`);
  };

  const apply = () => {
    const chosen = {};
    for (const select of form.querySelectorAll("select")) if (select.value) chosen[select.name] = select.value;
    rules.textContent = Object.entries(chosen).map(([key, value]) =>
      `[data-${key}]:not([data-${key}=${JSON.stringify(value)}]):not([data-${key}="any"]):not(svg *) { display: none }`).join("\n");
    for (const chart of document.querySelectorAll("svg.chart[data-top]")) relayout(chart, chosen);
    const words = Object.entries(chosen).map(([key, value]) => `${names[key]} ${value}`);
    shown.textContent = words.length ? `Below the verdicts only: ${words.join(", ")}.` : "";
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("#everything").addEventListener("click", () => { form.reset(); apply(); });
  form.querySelector("#unfold").addEventListener("click", () => {
    const folded = [...document.querySelectorAll("details")];
    const open = folded.some((each) => !each.open);
    for (const each of folded) each.open = open;
  });
  apply();

  // -- saving: an SVG as it is shown, a PNG at twice its size ----------------------------------------
  const address = (figure) => {
    const chart = figure.querySelector("svg.chart");
    if (!chart) return figure.querySelector("img").src;
    const copy = chart.cloneNode(true);
    const { width, height } = chart.viewBox.baseVal;
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    return "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
  };
  const raster = (source) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = 2 * image.naturalWidth;
      canvas.height = 2 * image.naturalHeight;
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      resolve(canvas.toDataURL("image/png"));
    };
    image.onerror = () => reject(new Error("the figure cannot be drawn"));
    image.src = source;
  });
  const save = (href, download) => Object.assign(document.createElement("a"), { href, download }).click();
  for (const figure of document.querySelectorAll("figure[data-name]")) {
    const line = document.createElement("p");
    line.className = "save";
    for (const kind of ["SVG", "PNG"]) {
      const link = document.createElement("a");
      link.href = `#${figure.id}`;
      link.textContent = kind;
      link.setAttribute("aria-label", `Save the figure ${figure.dataset.name} as ${kind}`);
      link.addEventListener("click", async (event) => {
        event.preventDefault();
        const source = address(figure);
        save(kind === "SVG" ? source : await raster(source), `${figure.dataset.name}.${kind.toLowerCase()}`);
      });
      line.append(link, " ");
    }
    figure.append(line);
  }
})();
