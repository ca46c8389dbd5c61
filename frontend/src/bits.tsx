// Small parts that every view uses: text made harmless, chips, tables, boxes.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { type S, UNSAFE, address, standIn, title, words } from "./lib";

/** Text of a model, an environment or a file, as it is: no markup in it counts, and what is invisible is shown. */
export function Text({ of }: { of: string }) {
  const pieces: ComponentChildren[] = [];
  let from = 0;
  for (const match of of.replaceAll("\r\n", "\n").matchAll(UNSAFE)) {
    if (match.index > from) pieces.push(of.replaceAll("\r\n", "\n").slice(from, match.index));
    const code = match[0].codePointAt(0)!;
    const name = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
    pieces.push(<span class="ctl" title={name}>{standIn(code)}</span>);
    from = match.index + match[0].length;
  }
  if (!from) return <bdi>{of.replaceAll("\r\n", "\n")}</bdi>;
  pieces.push(of.replaceAll("\r\n", "\n").slice(from));
  return <bdi>{pieces}</bdi>;
}

export function Outcome({ stop, won }: { stop: string; won: boolean }) {
  if (!stop) return <span class="chip run"><i aria-hidden="true">●</i> running</span>;
  if (won) return <span class="chip won"><i aria-hidden="true">✓</i> won</span>;
  const infrastructure = ["error", "interrupted", "budget", "unknown"].includes(stop);
  return <span class={infrastructure ? "chip warn" : "chip lost"}><i aria-hidden="true">✗</i> {stop === "lost" ? "lost" : words(stop)}</span>;
}

export function Arm({ name, seed }: { name: string; seed?: number | null }) {
  return (
    <span class="arm"><i class={`dot arm-${name}`} aria-hidden="true" />{title(name)}{seed !== null && seed !== undefined && <span class="soft"> seed {seed}</span>}</span>
  );
}

export function Problem({ words: said }: { words: string }) {
  return <div class="problem" role="alert"><strong>That did not work.</strong> <Text of={said} /></div>;
}

export function Waiting({ for: what }: { for: string }) {
  return <p class="waiting" role="status">Reading {what} …</p>;
}

export interface Grid {
  head: string[];
  rows: (string | number)[][];
}

/** A table whose first column names the row; numbers stand at the right. */
export function Table({ grid, caption, text = false }: { grid: Grid; caption: string; text?: boolean }) {
  return (
    <div class="scroll" role="region" aria-label={caption} tabIndex={0}>
      <table class={text ? "grid text" : "grid"}>
        <caption class="hidden">{caption}</caption>
        <thead><tr>{grid.head.map((cell) => <th scope="col">{cell}</th>)}</tr></thead>
        <tbody>
          {grid.rows.map((row) => (
            <tr>{row.map((cell, index) => (index === 0 ? <th scope="row"><Text of={String(cell)} /></th> : <td><Text of={String(cell)} /></td>))}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return <div class="fact"><dt>{name}</dt><dd>{children}</dd></div>;
}

interface SelectProps {
  label: string;
  value: string;
  options: (string | [string, string])[];
  all?: string;
  set: (value: string) => void;
}

export function Select({ label, value, options, all, set }: SelectProps) {
  return (
    <label class="field"><span>{label}</span>
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {all !== undefined && <option value="">{all}</option>}
        {options.map((option) => {
          const [key, shown] = typeof option === "string" ? [option, words(option)] : option;
          return <option value={key} selected={key === value}>{shown}</option>;
        })}
      </select>
    </label>
  );
}

export function Search({ label, value, set, hint }: { label: string; value: string; set: (value: string) => void; hint?: string }) {
  return (
    <label class="field grow"><span>{label}</span>
      <input type="search" value={value} placeholder={hint} spellcheck={false} autocomplete="off"
        onInput={(event) => set(event.currentTarget.value)} />
    </label>
  );
}

export function Seeds({ seeds, seed, set }: { seeds: number[]; seed: number | null; set: (seed: string) => void }) {
  if (seeds.length < 2) return null;
  return <Select label="Seed" value={String(seed ?? "")} options={seeds.map((each) => [String(each), `seed ${each}`] as [string, string])} set={set} />;
}

export function MemoryLink({ run, id, seed }: { run: string; id: string; seed: number | string | null | undefined }) {
  return <a class="mono" href={address("/memories", { run, id, seed })}>{id}</a>;
}

export function episodeUrl(run: string, row: S["EpisodeRow"]): string {
  return address("/episode", { run, ref: row.ref });
}

/** A part that opens on demand; what is in it is made only then. */
export function Fold({ label, children, open = false }: { label: ComponentChildren; children: () => ComponentChildren; open?: boolean }) {
  const [shown, show] = useState(open);
  return (
    <details class="fold" open={shown} onToggle={(event) => show(event.currentTarget.open)}>
      <summary>{label}</summary>
      {shown && children()}
    </details>
  );
}
