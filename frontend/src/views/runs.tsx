// All runs: what each is, how far, what came of it. Live runs move by themselves.
import { useEffect, useState } from "preact/hooks";
import { Problem, Text, Waiting } from "../bits";
import { Glance } from "../charts";
import { type S, address, percent, short, span, when, whole } from "../lib";

type Row = S["RunRow"];

function useRuns(): Row[] | null {
  const [rows, set] = useState<Map<string, Row> | null>(null);
  useEffect(() => {
    const source = new EventSource("/api/events");
    source.addEventListener("runs", (event) => {
      const news = JSON.parse((event as MessageEvent<string>).data) as { rows: Row[]; gone: string[] };
      set((old) => {
        const now = new Map(old ?? []);
        for (const row of news.rows) now.set(row.id, row);
        for (const id of news.gone) now.delete(id);
        return now;
      });
    });
    return () => source.close();
  }, []);
  return rows && [...rows.values()].sort((a, b) => Number(b.live) - Number(a.live) || b.changed - a.changed || (a.id < b.id ? -1 : 1));
}

export function Runs() {
  const rows = useRuns();
  if (!rows) return <Waiting for="the runs" />;
  return (
    <>
      <h1>Runs</h1>
      {!rows.length && <p class="empty">There is no run here yet. Make one with <code>duomem demo</code>, then it appears by itself.</p>}
      <ul class="runs">{rows.map((row) => <Card key={row.id} row={row} />)}</ul>
    </>
  );
}

function Card({ row }: { row: Row }) {
  if (row.problem) {
    return <li class="run-card"><div class="run-head"><h2><Text of={row.id} /></h2></div><Problem words={row.problem} /></li>;
  }
  const best = row.arms.filter((arm) => ["none", "memory", "adapter", "both"].includes(arm.arm) && arm.success !== null).sort((a, b) => b.success! - a.success!)[0];
  return (
    <li class={row.live ? "run-card live" : "run-card"} data-run={row.id}>
      <div class="run-head">
        <h2><a href={address(row.arms.length ? "/decision" : "/episodes", { run: row.id })}><Text of={row.id} /></a></h2>
        <span class={`state ${row.live ? "on" : ""}`}>{row.live && <i class="pulse" aria-hidden="true" />}{row.state}</span>
        <span class="soft">{when(row.changed)}</span>
      </div>
      <div class="run-body">
        <div class="run-said">
          {row.verdict ? <p class="verdict-line"><Text of={row.verdict} /></p> : row.live ? <p class="verdict-line">{whole(row.episodes)} episodes so far, {row.running} being played.</p> : <p class="verdict-line soft">No decision yet.</p>}
          <p class="soft">
            <Text of={row.teacher} /> teaches <Text of={row.student} /> · <Text of={row.env} />{row.split && <> · <Text of={row.split} /></>}
            {row.seeds.length > 1 && ` · ${row.seeds.length} seeds`}
          </p>
          <dl class="facts">
            <div class="fact"><dt>episodes</dt><dd>{whole(row.episodes)}</dd></div>
            {best && <div class="fact"><dt>best arm</dt><dd>{best.title} {percent(best.success)} <span class="soft">[{span(best.interval)}]</span></dd></div>}
            {row.tokens && <div class="fact"><dt>tokens played</dt><dd>{short(row.tokens.prompt! + row.tokens.completion!)}</dd></div>}
            {row.cost !== null && <div class="fact"><dt>paid</dt><dd>{row.cost.toFixed(2)} {row.currency}</dd></div>}
          </dl>
        </div>
        <Glance arms={row.arms} />
      </div>
    </li>
  );
}
