// Draw the charts of the usage page, in the colours of the admin's theme.
"use strict";

(() => {
  const PALETTE = ["#2f7fb5", "#e08a2e", "#3a9a5f", "#c2504f", "#8a6bbf", "#b3a125", "#d072a8", "#8c8c8c"];
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const canvases = [...document.querySelectorAll(".charts canvas")];
  let drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function dataset(chart, series, number) {
    const own = PALETTE[Math.min(number, PALETTE.length - 1)];
    return {
      label: series.name,
      data: series.values,
      backgroundColor: own,
      borderColor: own,
      borderWidth: chart.kind === "line" ? 2 : 0,
      pointRadius: chart.labels.length > 31 ? 0 : 2,
      tension: 0.2,
      spanGaps: true,
    };
  }

  function options(chart) {
    const text = colour("--body-fg");
    const line = colour("--hairline-color");
    const stacked = chart.kind === "bar";
    const number = new Intl.NumberFormat("en", { maximumFractionDigits: 4 });
    return {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { stacked, grid: { display: false }, ticks: { color: text, maxRotation: 0, autoSkipPadding: 16 } },
        y: { stacked, beginAtZero: true, grid: { color: line }, ticks: { color: text } },
      },
      plugins: {
        legend: { position: "bottom", labels: { color: text, boxWidth: 10, boxHeight: 10 } },
        tooltip: {
          callbacks: {
            label: (item) => `${item.dataset.label}: ${number.format(item.parsed.y)} ${chart.unit}`.trim(),
          },
        },
      },
    };
  }

  function draw() {
    drawn.forEach((chart) => chart.destroy());
    drawn = charts.map((chart, number) => new Chart(canvases[number], {
      type: chart.kind,
      data: { labels: chart.labels, datasets: chart.series.map((series, place) => dataset(chart, series, place)) },
      options: options(chart),
    }));
  }

  draw();
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
