// The decision: the 2x2, the paired tests in words, success by task type, steps, tokens, seconds, and how it was measured.
import { Fold, type Grid, Problem, Table, Text, Waiting } from "../bits";
import { Bars, Curves, Groups, Ranges, type Row } from "../charts";
import { type S, address, percent, seconds, signed, span, useGet, whole, words } from "../lib";

type View = S["DecisionView"];
type ArmOf = View["summary"]["arms"][string];
const SQUARE = ["none", "memory", "adapter", "both"];

export function Decision({ run }: { run: string }) {
  const { data, error } = useGet<View>("/api/decision", { run });
  if (error) return <><h1>Decision</h1><Problem words={error} /></>;
  if (!data) return <Waiting for="the report" />;
  const { summary, titles } = data;
  const arms = Object.entries(summary.arms);
  return (
    <>
      <p class="kicker">Decision</p>
      <h1 class="verdict"><Text of={summary.decision.verdict} /></h1>
      <p class="lead"><Text of={summary.decision.reason} /></p>
      {!!summary.decision.details.length && <ul class="details">{summary.decision.details.map((said) => <li><Text of={said} /></li>)}</ul>}
      <p class="note">
        {whole(summary.games)} games of <Text of={summary.split} />, {summary.seeds.length > 1 ? `${summary.seeds.length} seeds, ` : ""}{summary.rooms.length} rooms{summary.made && ` · ${summary.made}`}. Rule: {summary.decision.rule}
        {" "}<a href={address("/api/report", { run })} download>Download the report</a>
      </p>
      {!summary.complete && <Problem words={`${summary.problems.length} episodes are missing or have no outcome; they count as nothing.`} />}
      <Square summary={summary} run={run} />
      <section><h2>Arms</h2>
        <Ranges name="arms" label="Games won by each arm, with 95% intervals" unit="games won, %" caption="Lines: 95% intervals." grid={armsGrid(data)}
          rows={arms.filter(([, arm]) => arm.success !== null).map(([name, arm]) => range(name, titles[name]!, arm.success!, arm.interval))} />
      </section>
      <section><h2>Arm against arm</h2>
        <p class="soft">The same games and seeds, paired. Real memories less decoy ones is what the memories say: decoys are as many and as long, from tasks of other types.</p>
        <Pairs data={data} />
      </section>
      <Types data={data} />
      <Steps data={data} />
      <Costs data={data} />
      <Sweep data={data} />
      <section><h2>How it was measured</h2><Table grid={conditions(summary)} caption="How it was measured" text /><Fold label="Everything that was recorded of it">{() => <Table grid={facts(summary)} caption="Everything recorded" text />}</Fold></section>
    </>
  );
}

const range = (arm: string, label: string, value: number, [low, high]: readonly number[]): Row => ({ arm, label, value, low: low!, high: high! });

function Square({ summary, run }: { summary: View["summary"]; run: string }) {
  const cell = (name: string) => {
    const arm = summary.arms[name];
    if (!arm || arm.success === null) return <td class="empty-cell">not played</td>;
    return (
      <td class={summary.decision.arm === name ? "chosen" : ""}>
        <a href={address("/episodes", { run, arm: name })}><strong>{percent(arm.success)}</strong></a>
        <span class="soft">[{span(arm.interval)}]</span>
        {summary.decision.arm === name && <span class="chip won">{name === "none" ? "leave it so" : "ship this"}</span>}
      </td>
    );
  };
  return (
    <div class="scroll" role="region" aria-label="Memory and adapter, with and without" tabIndex={0}>
      <table class="square">
        <caption class="hidden">Games won with and without each part, with 95% intervals</caption>
        <thead><tr><td /><th scope="col">without memories</th><th scope="col">with memories</th></tr></thead>
        <tbody>
          <tr><th scope="row">without the adapter</th>{cell("none")}{cell("memory")}</tr>
          <tr><th scope="row">with the adapter</th>{cell("adapter")}{cell("both")}</tr>
        </tbody>
      </table>
    </div>
  );
}

function Pairs({ data }: { data: View }) {
  const pairs = Object.entries(data.summary.pairs);
  if (!pairs.length) return <p class="empty">Fewer than two arms were played.</p>;
  const label = (name: string) => name.split("-").map((part) => data.titles[part] ?? words(part)).join(" − ");
  const points = (share: number) => signed(100 * share);
  const grid: Grid = {
    head: ["pair", "points", "95% from", "to", "McNemar p", "wins", "losses", "games"],
    rows: pairs.map(([name, pair]) => [label(name), points(pair.difference), points(pair.interval[0]!), points(pair.interval[1]!), pair.mcnemar_p < 0.001 ? "< 0.001" : pair.mcnemar_p.toFixed(3), pair.wins, pair.losses, pair.n]),
  };
  return (
    <>
      <Ranges name="pairs" label="Differences between arms in points, with 95% intervals" unit="difference in points" about0 grid={grid}
        caption="Hollow: the interval includes 0. Nothing is corrected for making several comparisons."
        rows={pairs.map(([name, pair]) => ({ ...range("memory", label(name), pair.difference, pair.interval), arm: "pair", hollow: pair.interval[0]! <= 0 && pair.interval[1]! >= 0 }))} />
      <ul class="sentences">{pairs.slice(0, 7).map(([name]) => <li><Text of={data.sentences[name] ?? ""} /></li>)}</ul>
    </>
  );
}

function Types({ data }: { data: View }) {
  const played = Object.entries(data.summary.arms);
  const kinds = [...new Set(played.flatMap(([, arm]) => Object.keys(arm.by_type)))].sort();
  if (!kinds.length) return null;
  const shown = SQUARE.filter((arm) => arm in data.summary.arms);
  const groups = kinds.map((kind) => ({
    label: words(kind),
    rows: shown.flatMap((name) => {
      const group = data.summary.arms[name]!.by_type[kind];
      return group ? [range(name, data.titles[name]!, group.success, group.wilson)] : [];
    }),
  }));
  const grid: Grid = {
    head: ["task type", "games", ...played.map(([name]) => data.titles[name]!)],
    rows: kinds.map((kind) => [words(kind), Math.max(...played.map(([, arm]) => arm.by_type[kind]?.n ?? 0)), ...played.map(([, arm]) => percent(arm.by_type[kind]?.success))]),
  };
  return (
    <section><h2>Task types</h2>
      <Groups name="types" label="Games won by task type" caption="Lines: Wilson's 95% intervals over games." groups={groups} arms={shown} titles={data.titles} grid={grid} />
    </section>
  );
}

function Steps({ data }: { data: View }) {
  const curves = Object.entries(data.curves).map(([arm, shares]) => ({ arm, label: data.titles[arm] ?? words(arm), points: shares.map((share, step) => [step, share] as [number, number]) }));
  if (!curves.length) return null;
  const longest = Math.max(...curves.map((curve) => curve.points.length));
  const grid: Grid = {
    head: ["steps", ...curves.map((curve) => curve.label)],
    rows: Array.from({ length: longest }, (_, step) => [step, ...curves.map((curve) => percent(curve.points[step]?.[1]))]),
  };
  return (
    <section><h2>Steps</h2>
      <Curves name="steps" label="Share of games won within so many steps" caption="Games won within so many steps." curves={curves} grid={grid} xLabel="steps" yLabel="games won so far, %" yTop={1} steps text={(value) => String(Math.round(100 * value))} />
    </section>
  );
}

function Costs({ data }: { data: View }) {
  const arms = Object.entries(data.summary.arms);
  const bars = (of: (arm: ArmOf) => { value: number; soft?: boolean }[], text: (arm: ArmOf) => string) =>
    arms.map(([name, arm]) => ({ arm: name, label: data.titles[name]!, parts: of(arm), text: text(arm) }));
  const grid = (head: string[], of: (arm: ArmOf) => (string | number)[]): Grid => ({ head: ["arm", ...head], rows: arms.map(([name, arm]) => [data.titles[name]!, ...of(arm)]) });
  return (
    <section><h2>What an episode costs</h2>
      <div class="columns">
        <div><h3>Steps</h3><Bars name="cost-steps" label="Mean steps of an episode" caption="Mean of all episodes, won or not." rows={bars((arm) => [{ value: arm.mean_steps }], (arm) => arm.mean_steps.toFixed(1))}
          grid={grid(["steps", "steps where won"], (arm) => [arm.mean_steps.toFixed(2), arm.steps_to_success?.toFixed(2) ?? "–"])} /></div>
        <div><h3>Tokens</h3><Bars name="cost-tokens" label="Mean tokens of an episode" caption="Full: computed. Pale: served from the cache."
          rows={bars((arm) => [{ value: arm.prompt_tokens - arm.cached_tokens + arm.completion_tokens }, { value: arm.cached_tokens, soft: true }], (arm) => whole(arm.prompt_tokens + arm.completion_tokens))}
          grid={grid(["prompt", "cached", "completion"], (arm) => [whole(arm.prompt_tokens), whole(arm.cached_tokens), whole(arm.completion_tokens)])} /></div>
        <div><h3>Seconds</h3><Bars name="cost-seconds" label="Mean seconds of an episode" caption="Wall clock, many episodes at once." rows={bars((arm) => [{ value: arm.seconds_per_task }], (arm) => seconds(arm.seconds_per_task))}
          grid={grid(["seconds"], (arm) => [arm.seconds_per_task.toFixed(3)])} /></div>
      </div>
    </section>
  );
}

function Sweep({ data }: { data: View }) {
  if (!data.sweep?.length) return null;
  const names = [...new Set(data.sweep.flatMap((point) => Object.keys(point.arms)))].filter((name) => ["memory", "both", "decoy"].includes(name));
  const curves = names.map((arm) => {
    const there = data.sweep!.filter((point) => point.arms[arm]);
    return { arm, label: data.titles[arm] ?? words(arm), points: there.map((point) => [point.k, point.arms[arm]![0]!] as [number, number]), band: there.map((point) => [point.arms[arm]![1]!, point.arms[arm]![2]!] as [number, number]) };
  });
  const grid: Grid = { head: ["k", "run", ...names.map((name) => data.titles[name] ?? words(name))], rows: data.sweep.map((point) => [point.k, point.run, ...names.map((name) => percent(point.arms[name]?.[0]))]) };
  return (
    <section><h2>How many memories</h2>
      <Curves name="sweep" label="Games won by the number of memories shown" caption="Lines: 95% intervals." curves={curves} grid={grid} xLabel="memories shown (k)" yLabel="games won, %" yTop={1} integers text={(value) => String(Math.round(100 * value))} />
    </section>
  );
}

function armsGrid(data: View): Grid {
  return {
    head: ["arm", "success", "95% from", "to", "games", "seeds", "steps", "invalid", "cut off", "errors"],
    rows: Object.entries(data.summary.arms).map(([name, arm]) => [data.titles[name]!, percent(arm.success), percent(arm.interval[0]), percent(arm.interval[1]), arm.n, arm.seeds, arm.mean_steps.toFixed(1), percent(arm.invalid_rate), arm.truncated, arm.errors]),
  };
}

function conditions(summary: View["summary"]): Grid {
  const nearest = summary.retrieval;
  const rows: (string | number)[][] = [
    ["games", `${summary.games} of ${summary.games_of} of ${summary.split}, each once per arm and seed`],
    ["rooms", summary.rooms.join(", ")],
    ["smallest difference this can detect", `${(100 * summary.detectable_difference).toFixed(1)} points, paired, by games alone`],
    ["parts", `a bank of ${whole(summary.memories)} memories; an adapter of ${whole(summary.adapter_parameters)} trained parameters`],
    ["nearest memory", nearest ? `of the right task type in ${percent(nearest.top1_type)}, about the right object in ${percent(nearest.top1_object)}; similarity ${nearest.similarity.map((each) => each.toFixed(2)).join(", ")} (10, 50, 90%)` : ""],
    ["student, teacher", `${summary.settings["student"] ?? ""}, ${summary.settings["teacher"] ?? ""}`],
  ];
  return { head: ["what", "here"], rows: rows.filter((row) => row[1] !== "") };
}

function facts(summary: View["summary"]): Grid {
  const rows: (string | number)[][] = [
    ["commit", summary.commit], ["config", summary.config_hash],
    ...Object.entries(summary.seconds).map(([verb, spent]) => [`time: ${verb}`, seconds(spent)]),
    ...[summary.settings, summary.data, summary.hardware, summary.versions].flatMap((given) => Object.entries(given).map(([name, value]) => [words(name), value])),
  ];
  return { head: ["what", "here"], rows: rows.filter((row) => row[1] !== "") };
}
