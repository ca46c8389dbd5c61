// The bank: a list to search, and each memory with what it says, where it came from, what it did, and what is like it.
import { useEffect, useState } from "preact/hooks";
import { Fact, Problem, Search, Seeds, Select, Text, Waiting } from "../bits";
import { type S, address, get, go, post, title, useGet, whole, words } from "../lib";
import { VirtualList } from "../list";

type Row = S["MemoryRow"];
type Page = S["MemoryPage"];
type Full = S["MemoryFull"];
const SET = ["query", "status", "order", "arm", "copies"] as const;

export function Memories({ run, query }: { run: string; query: URLSearchParams }) {
  const chosen = Object.fromEntries(SET.map((name) => [name, query.get(name) ?? ""])) as Record<(typeof SET)[number], string>;
  const seed = query.get("seed") ?? "";
  const id = query.get("id") ?? "";
  const [edits, setEdits] = useState(0);
  const [problem, setProblem] = useState("");
  const [page, setPage] = useState<Page | null>(null);
  const url = (changes: Record<string, string>) => address("/memories", { run, seed, id, ...chosen, ...changes });
  const set = (changes: Record<string, string>) => {
    setProblem("");
    go(url(changes), true);
  };
  const ask = { run, seed, ...chosen };
  const arm = chosen.arm || "memory";
  return (
    <>
      <div class="headline"><h1>Memories</h1>
        {page && <span class="soft" role="status">{whole(page.total)} listed; {whole(page.live)} of {whole(page.stored)} live{page.split && <>; counts: arm {title(arm)} on <Text of={page.split} /></>}</span>}
      </div>
      <form class="filters" onSubmit={(event) => event.preventDefault()} aria-label="Search and filters">
        <Search label="Search" value={chosen.query} hint="put a clean mug in the cabinet" set={(text) => set({ query: text })} />
        <Select label="Status" value={chosen.status} all="every status" options={["live", "quarantined", "retired"]} set={(status) => set({ status })} />
        <Select label="Order" value={chosen.order} all={chosen.query ? "nearest first" : "by id"} options={[["hits", "most shown"], ["helped", "most helpful"], ["harmed", "most harmful"], ["won", "most won"]]} set={(order) => set({ order })} />
        <Select label="Counts of" value={arm} options={[["memory", "memory (against none)"], ["both", "both (against adapter)"]]} set={(next) => set({ arm: next })} />
        <Seeds seeds={page?.seeds ?? []} seed={page?.seed ?? null} set={(next) => set({ seed: next, id: "" })} />
        <label class="check"><input type="checkbox" checked={chosen.copies !== ""} onChange={(event) => set({ copies: event.currentTarget.checked ? "true" : "" })} /> only those that are there twice</label>
      </form>
      {problem && <Problem words={problem} />}
      <div class={id ? "split-view open" : "split-view"}>
        <div>
          <div class="list-head mem-line" aria-hidden="true"><span>task it is found by</span><span class="num">shown</span><span class="num">helped</span><span class="num">harmed</span></div>
          <VirtualList<Row> of={`${address("", ask)} ${edits}`} label="Memories" rowHeight={56}
            read={async (offset, limit) => {
              const found = await get<Page>("/api/memories", { ...ask, offset, limit });
              setPage(found);
              return found;
            }}
            onError={setProblem} empty={<p class="empty">No memory matches.</p>}
            render={(row) => ({
              href: url({ id: row.id }),
              current: row.id === id,
              content: (
                <span class={`mem-line ${row.status}`}>
                  <span class="ep-goal"><strong><Text of={row.key} /></strong>
                    <span class="soft mono">{row.id}{row.status !== "live" && <em> {row.status}</em>}{row.copies > 0 && <em> {row.copies} alike</em>}{row.score !== null && row.score !== undefined && <> {row.score.toFixed(3)}</>}</span></span>
                  <span class="num">{row.uses[arm]?.hits ?? "–"}</span>
                  <span class="num good">{row.uses[arm]?.helped || ""}</span>
                  <span class="num bad">{row.uses[arm]?.harmed || ""}</span>
                </span>
              ),
            })} />
        </div>
        {id && <Detail key={id + seed} run={run} id={id} seed={seed} link={(other) => url({ id: other })} close={url({ id: "" })} changed={() => setEdits((count) => count + 1)} />}
      </div>
    </>
  );
}

interface DetailProps {
  run: string;
  id: string;
  seed: string;
  link: (id: string) => string;
  close: string;
  changed: () => void;
}

function Detail({ run, id, seed, link, close, changed }: DetailProps) {
  const { data, error } = useGet<Full>("/api/memory", { run, id, seed });
  const [now, setNow] = useState<Full | null>(null);
  useEffect(() => setNow(data ?? null), [data]);
  if (error) return <aside class="detail"><Problem words={error} /></aside>;
  if (!now) return <aside class="detail"><Waiting for="the memory" /></aside>;
  const { row } = now;
  const edited = (next: Full) => {
    setNow(next);
    changed();
  };
  return (
    <aside class="detail" aria-label={`Memory ${row.id}`}>
      <p class="kicker"><span class="mono">{row.id}</span> · <Text of={row.kind} /> <a href={close} class="close">Close</a></p>
      <h2><Text of={row.key} /></h2>
      <p><span class={row.status === "live" ? "chip won" : "chip warn"} data-status={row.status}>{row.status}</span></p>
      <pre class="memory-text"><Text of={row.text} /></pre>
      <Edit key={row.status} run={run} full={now} done={edited} />
      {Object.entries(row.uses).map(([arm, use]) => (
        <dl class="facts">
          <Fact name={`shown in ${title(arm)}`}><a href={address("/episodes", { run, memory: row.id, arm })}>{use.hits} {use.hits === 1 ? "episode" : "episodes"}</a></Fact>
          <Fact name="won">{use.won}</Fact><Fact name="helped">{use.helped}</Fact><Fact name="harmed">{use.harmed}</Fact>
        </dl>
      ))}
      {!Object.keys(row.uses).length && <p class="soft">No episode of the evaluation was shown it.</p>}
      <h3>Where it came from</h3>
      <ul class="plain">
        {now.sources.map((source) => (
          <li>{source.episode ? <a href={address("/episode", { run: source.run, ref: source.episode })}><Text of={source.task} /></a> : <Text of={source.task} />}
            <p class="soft">teacher <Text of={source.teacher || "unknown"} />, written by <Text of={source.written_by} />{source.licence && <>, <Text of={source.licence} /></>}</p></li>
        ))}
      </ul>
      <h3>Nearest memories</h3>
      <ol class="near">
        {now.near.map((near) => (
          <li><a href={link(near.id)}><Text of={near.key} /></a> <span class="num">{near.score.toFixed(3)}</span>{near.copy && <span class="chip warn">alike</span>}<pre><Text of={near.text} /></pre></li>
        ))}
      </ol>
      <h3>Its edits</h3>
      <ul class="plain">{now.changes.map((change) => <li>{words(change.op)} in version {change.version}, {new Date(change.time * 1000).toISOString().slice(0, 16).replace("T", " ")}: <Text of={change.reason} /></li>)}</ul>
    </aside>
  );
}

function Edit({ run, full, done }: { run: string; full: Full; done: (next: Full) => void }) {
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const what = full.row.status === "live" ? "quarantine" : "restore";
  const send = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      done(await post<Full>(`/api/memory/${what}`, { run, id: full.row.id, seed: full.seed, reason }));
    } catch (error) {
      setProblem((error as Error).message);
      setBusy(false);
    }
  };
  return (
    <form class="edit" onSubmit={send}>
      <label class="field grow"><span>Reason (it stands in the bank's journal)</span>
        <input type="text" value={reason} required onInput={(event) => setReason(event.currentTarget.value)} placeholder={what === "quarantine" ? "sends to the wrong room" : "was right after all"} /></label>
      <button type="submit" class={what === "quarantine" ? "act warn" : "act"} disabled={busy || !reason.trim()}>{what === "quarantine" ? "Quarantine" : "Restore"}</button>
      {problem && <Problem words={problem} />}
    </form>
  );
}
