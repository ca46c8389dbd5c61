// The episodes of a run: filters that stand in the address, and a list of any length.
import { useState } from "preact/hooks";
import { Arm, Outcome, Problem, Search, Select, Text, episodeUrl } from "../bits";
import { type S, address, get, go, short, title, useGet, whole, words } from "../lib";
import { VirtualList } from "../list";

type Row = S["EpisodeRow"];
type Page = S["EpisodePage"];
const FILTERS = ["arm", "outcome", "stop", "kind", "seed", "split", "lost_in", "won_in", "memory", "text", "task"] as const;

export function Episodes({ run, query }: { run: string; query: URLSearchParams }) {
  const facets = useGet<S["Facets"]>("/api/facets", { run });
  const [total, setTotal] = useState<number | null>(null);
  const [problem, setProblem] = useState("");
  const chosen = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""])) as Record<(typeof FILTERS)[number], string>;
  const set = (changes: Partial<typeof chosen>) => {
    setProblem("");
    go(address("/episodes", { run, ...chosen, ...changes }), true);
  };
  if (facets.error) return <><h1>Episodes</h1><Problem words={facets.error} /></>;
  const known = facets.data;
  const arms = (known?.arms ?? []).map((arm) => [arm, title(arm)] as [string, string]);
  const played = arms.filter(([arm]) => known?.parts.some((part) => part.arm === arm && part.verb === "evaluate"));
  const has = (arm: string) => played.some(([name]) => name === arm);
  return (
    <>
      <div class="headline"><h1>Episodes</h1><span class="soft" role="status">{total === null ? "" : `${whole(total)} of ${whole(known?.total ?? total)}`}</span></div>
      <div class="presets" role="group" aria-label="Ready-made filters">
        <button type="button" aria-pressed={!FILTERS.some((name) => chosen[name])} onClick={() => go(address("/episodes", { run }), true)}>All</button>
        {has("memory") && has("none") && <>
          <button type="button" aria-pressed={chosen.arm === "memory" && chosen.lost_in === "none"} onClick={() => go(address("/episodes", { run, arm: "memory", outcome: "won", lost_in: "none" }), true)}>Memory turned it into a success</button>
          <button type="button" aria-pressed={chosen.arm === "memory" && chosen.outcome === "lost"} onClick={() => go(address("/episodes", { run, arm: "memory", outcome: "lost" }), true)}>Lost with memories</button>
        </>}
        {has("both") && has("adapter") && <button type="button" aria-pressed={chosen.arm === "both" && chosen.won_in === "adapter"} onClick={() => go(address("/episodes", { run, arm: "both", outcome: "lost", won_in: "adapter" }), true)}>Memory harmed beside the adapter</button>}
      </div>
      <form class="filters" onSubmit={(event) => event.preventDefault()} aria-label="Filters">
        <Select label="Arm" value={chosen.arm} all="every arm" options={arms} set={(arm) => set({ arm })} />
        <Select label="Outcome" value={chosen.outcome} all="any" options={["won", "lost", "running", "error"]} set={(outcome) => set({ outcome })} />
        <Select label="Stopped by" value={chosen.stop} all="anything" options={known?.stops ?? []} set={(stop) => set({ stop })} />
        {!!known?.kinds.length && <Select label="Task type" value={chosen.kind} all="every type" options={known.kinds} set={(kind) => set({ kind })} />}
        {(known?.seeds.length ?? 0) > 1 && <Select label="Seed" value={chosen.seed} all="every seed" options={known!.seeds.map((seed) => [String(seed), String(seed)] as [string, string])} set={(seed) => set({ seed })} />}
        {played.length > 1 && <Select label="Game lost by" value={chosen.lost_in} all="–" options={played} set={(lost_in) => set({ lost_in })} />}
        {played.length > 1 && <Select label="Game won by" value={chosen.won_in} all="–" options={played} set={(won_in) => set({ won_in })} />}
        <Search label="Goal or task" value={chosen.text} hint="mug" set={(text) => set({ text })} />
        <Search label="Memory used" value={chosen.memory} hint="its id" set={(memory) => set({ memory })} />
      </form>
      {problem && <Problem words={problem} />}
      <div class="list-head ep-line" aria-hidden="true"><span>outcome</span><span>goal</span><span>arm</span><span class="num">steps</span><span class="num">tokens</span><span class="num">memories</span></div>
      <VirtualList<Row> of={address("", { run, ...chosen })} label="Episodes" rowHeight={52}
        read={(offset, limit) => get<Page>("/api/episodes", { run, ...chosen, offset, limit })}
        onTotal={setTotal} onError={setProblem}
        empty={<p class="empty">No episode matches. <a href={address("/episodes", { run })}>Show all</a></p>}
        render={(row) => ({
          href: episodeUrl(run, row),
          content: (
            <span class="ep-line">
              <span><Outcome stop={row.stop} won={row.won} /></span>
              <span class="ep-goal"><strong><Text of={row.goal || row.task} /></strong><span class="soft">{row.kind ? words(row.kind) : <Text of={row.task} />}</span></span>
              <span><Arm name={row.arm} seed={(known?.seeds.length ?? 0) > 1 ? row.seed : null} /></span>
              <span class="num">{row.steps}<span class="unit"> steps</span></span>
              <span class="num">{short(row.usage.prompt! + row.usage.completion!)}<span class="unit"> tokens</span></span>
              <span class="num">{row.memories.length || "–"}<span class="unit"> memories</span></span>
            </span>
          ),
        })} />
    </>
  );
}
