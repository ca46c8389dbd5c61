// The charts: SVG drawn from scales and shapes of d3, as wide as there is room, each with its numbers and its downloads.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { scaleLinear } from "d3-scale";
import {
  type SymbolType, curveStepAfter, line, symbol, symbolCircle, symbolCross, symbolDiamond, symbolSquare, symbolStar, symbolTriangle, symbolWye,
} from "d3-shape";
import { type Grid, Table } from "./bits";

const MARKS: Record<string, SymbolType> = {
  none: symbolCircle, memory: symbolSquare, adapter: symbolTriangle, both: symbolDiamond, decoy: symbolWye, format_only: symbolStar,
  teacher: symbolCross, no_same_room: symbolSquare, both_decoy: symbolDiamond,
};
export const colour = (arm: string): string => `var(--arm-${arm}, var(--accent))`;

function Mark({ arm, x, y, size = 70, hollow = false }: { arm: string; x: number; y: number; size?: number; hollow?: boolean }) {
  const path = symbol(MARKS[arm] ?? symbolCircle, size)() ?? "";
  return <path d={path} transform={`translate(${x},${y})`} fill={hollow ? "var(--paper)" : colour(arm)} stroke={colour(arm)} stroke-width={hollow ? 2 : 0} />;
}

export function Legend({ arms, titles }: { arms: string[]; titles: Record<string, string> }) {
  return (
    <ul class="legend">
      {arms.map((arm) => (
        <li><svg width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true"><Mark arm={arm} x={0} y={0} size={55} /></svg>{titles[arm] ?? arm}</li>
      ))}
    </ul>
  );
}

// ------------------------------------------------------------------------------------------------------ a figure and its files

interface FigureProps {
  name: string;
  label: string;
  caption?: ComponentChildren;
  grid: Grid;
  height: number | ((width: number) => number);
  draw: (width: number, height: number) => ComponentChildren;
  above?: ComponentChildren;
}

export function Figure({ name, label, caption, grid, height, draw, above }: FigureProps) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(720);
  useLayoutEffect(() => {
    if (!box.current) return;
    const watch = new ResizeObserver(([entry]) => entry && entry.contentRect.width > 0 && setWidth(Math.min(1000, Math.floor(entry.contentRect.width))));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const tall = typeof height === "function" ? height(width) : height;
  const picture = () => box.current!.querySelector("svg.chart") as SVGSVGElement;
  return (
    <figure class="figure">
      {above}
      <div ref={box}>
        <svg class="chart" role="img" aria-label={label} width={width} height={tall} viewBox={`0 0 ${width} ${tall}`}>{draw(width, tall)}</svg>
      </div>
      <figcaption>
        {caption && <span>{caption}</span>}
        <span class="files" role="group" aria-label={`Downloads of: ${label}`}>
          <button type="button" onClick={() => save(`${name}.csv`, new Blob([csv(grid)], { type: "text/csv" }))}>CSV</button>
          <button type="button" onClick={() => save(`${name}.svg`, new Blob([drawn(picture())], { type: "image/svg+xml" }))}>SVG</button>
          <button type="button" onClick={() => void png(picture(), `${name}.png`)}>PNG</button>
        </span>
      </figcaption>
      <details class="fold"><summary>The figures as a table</summary><Table grid={grid} caption={label} /></details>
    </figure>
  );
}

export function csv(grid: Grid): string {
  const cell = (value: string | number) => {
    const text = String(value);
    const safe = /^[=@\t\r]/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [grid.head, ...grid.rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

export function save(name: string, blob: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The drawing as a file of its own: what style sheets say of it is written into it, on the page's paper. */
function drawn(picture: SVGSVGElement): string {
  const copy = picture.cloneNode(true) as SVGSVGElement;
  const from = picture.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((node, index) => {
    const style = getComputedStyle(from[index]!);
    for (const name of ["fill", "stroke", "opacity", "font-size", "font-weight"]) node.setAttribute(name, style.getPropertyValue(name));
    node.removeAttribute("class");
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("font-family", "system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif");
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", getComputedStyle(document.body).backgroundColor]]) paper.setAttribute(name!, value!);
  copy.prepend(paper);
  return new XMLSerializer().serializeToString(copy);
}

async function png(picture: SVGSVGElement, name: string): Promise<void> {
  const image = new Image();
  const scale = 2;
  image.src = URL.createObjectURL(new Blob([drawn(picture)], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.width.baseVal.value * scale;
  canvas.height = picture.height.baseVal.value * scale;
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  canvas.toBlob((blob) => blob && save(name, blob), "image/png");
}

// ------------------------------------------------------------------------------------------------------------ axes and frames

type Scale = (value: number) => number;

function Ticks({ x, at, top, bottom, text }: { x: Scale; at: number[]; top: number; bottom: number; text: (value: number) => string }) {
  return (
    <g>
      {at.map((value) => (
        <g>
          <line class="grid-line" x1={x(value)} x2={x(value)} y1={top} y2={bottom} />
          <text class="tick" x={x(value)} y={bottom + 16} text-anchor="middle">{text(value)}</text>
        </g>
      ))}
    </g>
  );
}

const fit = (labels: string[], width: number) => Math.min(width * 0.42, 20 + 6.9 * Math.max(...labels.map((label) => label.length)));

export interface Row {
  arm: string;
  label: string;
  value: number;
  low: number;
  high: number;
  hollow?: boolean;
}

interface RangeProps {
  name: string;
  label: string;
  caption: string;
  unit: string;
  rows: Row[];
  grid: Grid;
  /** Differences: an axis about 0, signs before the numbers. */
  about0?: boolean;
}

/** One row for each value: a mark with its interval, the number beside it. On a narrow page the name stands above its row. */
export function Ranges({ name, label, caption, unit, rows, grid, about0 = false }: RangeProps) {
  const low = about0 ? Math.min(0, ...rows.map((row) => row.low)) : 0;
  const high = about0 ? Math.max(0, ...rows.map((row) => row.high)) : 1;
  const write = (value: number) => (about0 ? `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}` : (100 * value).toFixed(1));
  return (
    <Figure name={name} label={label} caption={caption} grid={grid}
      height={(width) => rows.length * (width < 520 ? 44 : 30) + 44}
      draw={(width, height) => {
        const narrow = width < 520;
        const step = narrow ? 44 : 30;
        const left = narrow ? 10 : fit(rows.map((row) => row.label), width);
        const right = 56;
        const x = scaleLinear([low, high], [left, width - right]);
        if (about0) x.nice(5);
        const bottom = height - 36;
        return (
          <>
            <Ticks x={x} at={x.ticks(narrow ? 4 : 6)} top={0} bottom={bottom} text={(value) => String(Math.round(100 * value))} />
            {about0 && <line class="axis" x1={x(0)} x2={x(0)} y1={0} y2={bottom} />}
            {rows.map((row, index) => {
              const y = index * step + (narrow ? 30 : step / 2 + 3);
              return (
                <g>
                  <title>{`${row.label}: ${write(row.value)} (${write(row.low)} to ${write(row.high)})`}</title>
                  {narrow ? <text class="name" x={left - 8} y={y - 14}>{row.label}</text> : <text class="name" x={left - 14} y={y + 4} text-anchor="end">{row.label}</text>}
                  <line x1={x(row.low)} x2={x(row.high)} y1={y} y2={y} stroke={colour(row.arm)} stroke-width="3" stroke-linecap="round" opacity={row.hollow ? 0.55 : 0.85} />
                  <Mark arm={row.arm} x={x(row.value)} y={y} size={85} hollow={row.hollow} />
                  <text class="value" x={width - 2} y={y + 4} text-anchor="end">{write(row.value)}</text>
                </g>
              );
            })}
            <text class="tick" x={(left + width - right) / 2} y={height - 3} text-anchor="middle">{unit}</text>
          </>
        );
      }} />
  );
}

interface GroupProps {
  name: string;
  label: string;
  caption: string;
  groups: { label: string; rows: Row[] }[];
  arms: string[];
  titles: Record<string, string>;
  grid: Grid;
}

/** Several arms in each group, one under the other. */
export function Groups({ name, label, caption, groups, arms, titles, grid }: GroupProps) {
  const step = 13;
  const heights = groups.map((group) => group.rows.length * step + 18);
  return (
    <Figure name={name} label={label} caption={caption} grid={grid} above={<Legend arms={arms} titles={titles} />}
      height={(width) => heights.reduce((sum, each) => sum + each + (width < 520 ? 18 : 0), 0) + 40}
      draw={(width, height) => {
        const narrow = width < 520;
        const left = narrow ? 10 : fit(groups.map((group) => group.label), width);
        const x = scaleLinear([0, 1], [left, width - 16]);
        const bottom = height - 36;
        let y = 0;
        return (
          <>
            <Ticks x={x} at={x.ticks(5)} top={0} bottom={bottom} text={(value) => String(Math.round(100 * value))} />
            {groups.map((group, index) => {
              const top = y;
              y += heights[index]! + (narrow ? 18 : 0);
              const begin = top + (narrow ? 27 : 9);
              return (
                <g>
                  {index > 0 && <line class="rule" x1={0} x2={width} y1={top} y2={top} />}
                  {narrow ? <text class="name" x={2} y={top + 15}>{group.label}</text> : <text class="name" x={left - 14} y={top + heights[index]! / 2 + 4} text-anchor="end">{group.label}</text>}
                  {group.rows.map((row, at) => (
                    <g>
                      <title>{`${group.label}, ${row.label}: ${(100 * row.value).toFixed(1)}%`}</title>
                      <line x1={x(row.low)} x2={x(row.high)} y1={begin + (at + 0.5) * step} y2={begin + (at + 0.5) * step} stroke={colour(row.arm)} stroke-width="2" opacity="0.75" />
                      <Mark arm={row.arm} x={x(row.value)} y={begin + (at + 0.5) * step} size={48} />
                    </g>
                  ))}
                </g>
              );
            })}
            <text class="tick" x={(left + width) / 2} y={height - 3} text-anchor="middle">games won, %</text>
          </>
        );
      }} />
  );
}

export interface Curve {
  arm: string;
  label: string;
  points: [number, number][];
  /** A band about the curve: lowest and highest at each point. */
  band?: [number, number][];
}

interface CurveProps {
  name: string;
  label: string;
  caption?: ComponentChildren;
  curves: Curve[];
  grid: Grid;
  xLabel: string;
  yLabel: string;
  yTop?: number;
  steps?: boolean;
  marks?: boolean;
  text?: (value: number) => string;
  height?: number;
  integers?: boolean;
}

/** Lines over a common axis. Where there are several, each is named at its end. */
export function Curves(props: CurveProps) {
  const { name, label, caption, curves, grid, xLabel, yLabel, yTop, steps = false, marks = true, text = String, height = 280, integers = false } = props;
  const points = curves.flatMap((curve) => curve.points);
  const xs = points.map((point) => point[0]);
  const top = yTop ?? Math.max(1e-9, ...points.map((point) => point[1]));
  return (
    <Figure name={name} label={label} caption={caption} grid={grid} height={height}
      above={curves.length > 1 ? <Legend arms={curves.map((curve) => curve.arm)} titles={Object.fromEntries(curves.map((curve) => [curve.arm, curve.label]))} /> : undefined}
      draw={(width, tall) => {
        const x = scaleLinear([Math.min(...xs), Math.max(...xs)], [52, width - 14]);
        const y = scaleLinear([0, top], [tall - 42, 10]);
        if (yTop === undefined) y.nice(4);
        const path = line<[number, number]>((point) => x(point[0]), (point) => y(point[1]));
        if (steps) path.curve(curveStepAfter);
        const at = integers ? [...new Set(xs)] : x.ticks(width < 520 ? 4 : 8).filter(Number.isInteger);
        return (
          <>
            {y.ticks(5).map((value) => (
              <g>
                <line class="grid-line" x1={52} x2={width - 14} y1={y(value)} y2={y(value)} />
                <text class="tick" x={44} y={y(value) + 4} text-anchor="end">{text(value)}</text>
              </g>
            ))}
            {at.map((value) => <text class="tick" x={x(value)} y={tall - 24} text-anchor="middle">{value}</text>)}
            <line class="axis" x1={52} x2={width - 14} y1={y(0)} y2={y(0)} />
            {curves.map((curve) => {
              const every = Math.max(1, Math.round(curve.points.length / 7));
              return (
                <g>
                  <path d={path(curve.points) ?? ""} fill="none" stroke={colour(curve.arm)} stroke-width="2" stroke-linejoin="round" />
                  {curve.band?.map(([low, high], index) => {
                    const place = x(curve.points[index]![0]);
                    return <line x1={place} x2={place} y1={y(low)} y2={y(high)} stroke={colour(curve.arm)} stroke-width="2" opacity="0.6" />;
                  })}
                  {marks && curve.points.filter((_, index) => curve.band || index % every === 0).map((point) => <Mark arm={curve.arm} x={x(point[0])} y={y(point[1])} size={40} />)}
                </g>
              );
            })}
            <text class="tick" x={(52 + width) / 2} y={tall - 4} text-anchor="middle">{xLabel}</text>
            <text class="tick" x={-(tall - 32) / 2} y={11} transform="rotate(-90)" text-anchor="middle">{yLabel}</text>
          </>
        );
      }} />
  );
}

interface BarProps {
  name: string;
  label: string;
  caption: string;
  rows: { arm: string; label: string; parts: { value: number; soft?: boolean }[]; text: string }[];
  grid: Grid;
}

/** Lengths from 0; a bar may be made of a full and a pale part. */
export function Bars({ name, label, caption, rows, grid }: BarProps) {
  const most = Math.max(1e-9, ...rows.map((row) => row.parts.reduce((sum, part) => sum + part.value, 0)));
  return (
    <Figure name={name} label={label} caption={caption} grid={grid} height={rows.length * 26 + 8}
      draw={(width) => {
        const left = Math.min(150, fit(rows.map((row) => row.label), width));
        const right = 12 + 6.7 * Math.max(...rows.map((row) => row.text.length));
        const x = scaleLinear([0, most], [0, Math.max(20, width - left - right)]);
        return rows.map((row, index) => {
          let from = left;
          return (
            <g>
              <title>{`${row.label}: ${row.text}`}</title>
              <text class="name" x={left - 10} y={index * 26 + 19} text-anchor="end">{row.label}</text>
              {row.parts.map((part) => {
                const begin = from;
                from += x(part.value);
                return <rect x={begin} y={index * 26 + 6} width={Math.max(0, x(part.value))} height={17} fill={colour(row.arm)} opacity={part.soft ? 0.35 : 1} />;
              })}
              <text class="value" x={from + 7} y={index * 26 + 19}>{row.text}</text>
            </g>
          );
        });
      }} />
  );
}

/** The arms of a run in one glance: a row for each, from 0 to 100%. */
export function Glance({ arms }: { arms: S_ArmLine[] }) {
  const shown = arms.filter((arm) => arm.success !== null && ["none", "memory", "adapter", "both"].includes(arm.arm));
  if (!shown.length) return null;
  const step = 13;
  const x = scaleLinear([0, 1], [52, 178]);
  return (
    <svg class="glance" role="img" width="216" height={shown.length * step + 4}
      aria-label={shown.map((arm) => `${arm.title} ${(100 * arm.success!).toFixed(1)}%`).join(", ")}>
      {[0, 0.5, 1].map((value) => <line class="grid-line" x1={x(value)} x2={x(value)} y1={0} y2={shown.length * step + 4} />)}
      {shown.map((arm, index) => {
        const y = index * step + step / 2 + 2;
        return (
          <g>
            <text class="small" x={46} y={y + 3.5} text-anchor="end">{arm.title}</text>
            {arm.interval && <line x1={x(arm.interval[0]!)} x2={x(arm.interval[1]!)} y1={y} y2={y} stroke={colour(arm.arm)} stroke-width="2" opacity="0.75" />}
            <Mark arm={arm.arm} x={x(arm.success!)} y={y} size={36} />
            <text class="small value" x={214} y={y + 3.5} text-anchor="end">{(100 * arm.success!).toFixed(1)}</text>
          </g>
        );
      })}
    </svg>
  );
}

interface S_ArmLine {
  arm: string;
  title: string;
  success: number | null;
  interval: number[] | null;
}
