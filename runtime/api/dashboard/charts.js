// What a pipeline did in the last hour.

import { get, part } from "./api.js";
import { h, number, rate, span } from "./dom.js";

/* global uPlot */

const CHARTS = [
  { title: "Throughput", unit: rate, lines: [["read", "read", "--accent"], ["written", "written", "--good"]] },
  { title: "Lag, events", unit: (value) => (value % 1 ? "" : number(value)), lines: [["lag", "events", "--wait"]] },
  { title: "Lag, time", unit: span, lines: [["lag-ms", "age of the next event", "--wait"]] },
  { title: "Latency of calls", unit: span, lines: [["p50-ms", "median", "--accent"], ["p99-ms", "99th percentile", "--bad"]] },
];

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The time of day in UTC, as everywhere on the page; ticks are in seconds. */
function clock(ticks) {
  const seconds = ticks.length > 1 && ticks[1] - ticks[0] < 60;
  return ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, seconds ? 19 : 16));
}

/** Draws them, and goes on until the signal. */
export function charts(pipeline, signal) {
  const drawn = CHARTS.map((chart) => {
    const place = h("div", { "data-own": "" });
    const told = h("p", { "data-own": "" });
    return { ...chart, place, told, element: h("div.card.chart", h("h3", chart.title), place, told) };
  });
  const width = (place) => Math.max(place.clientWidth, 200);
  const draw = (chart, history) => {
    const data = [history.times.map((time) => time / 1000), ...chart.lines.map(([name]) => history[name])];
    if (chart.plot) chart.plot.setData(data);
    else {
      const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
      chart.plot = new uPlot({
        width: width(chart.place), height: 150, legend: { show: false }, cursor: { drag: { setScale: false } },
        scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
        axes: [{ ...axis, space: 70, values: (_, ticks) => clock(ticks) }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => chart.unit(tick)) }],
        series: [{}, ...chart.lines.map(([, label, stroke]) => ({ label, stroke: color(stroke), width: 1.6, points: { show: false } }))],
      }, data, chart.place);
    }
    // The same in words, also for who cannot see it.
    const last = history.times.length - 1;
    const now = ([name, label, stroke], at) => [at ? ", " : "", h(`span.key.${stroke.slice(2)}`, label), ` ${chart.unit(last < 0 ? null : history[name][last])}`];
    chart.told.replaceChildren("Now: ", ...chart.lines.flatMap(now));
  };
  const refresh = async () => {
    try {
      const history = await get(`pipelines/${part(pipeline)}/history`);
      if (!signal.aborted) drawn.forEach((chart) => draw(chart, history));
    } catch { /* The status tells it. */ }
  };
  const resized = () => drawn.forEach(({ plot, place }) => plot?.setSize({ width: width(place), height: 150 }));
  window.addEventListener("resize", resized, { signal });
  const timer = setInterval(refresh, 5000);
  signal.addEventListener("abort", () => clearInterval(timer));
  setTimeout(refresh);
  return h("div.charts", drawn.map(({ element }) => element));
}
