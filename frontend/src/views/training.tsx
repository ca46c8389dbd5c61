// Training: loss and rate by step, throughput, and the loss mask over a training example as the model reads it.
import { useEffect } from "preact/hooks";
import { type Grid, Fact, MemoryLink, Problem, Seeds, Text, Waiting } from "../bits";
import { Curves } from "../charts";
import { type S, address, go, percent, seconds, short, useGet, useKeys, whole } from "../lib";

type View = S["TrainingView"];

export function Training({ run, query }: { run: string; query: URLSearchParams }) {
  const seed = query.get("seed") ?? "";
  const { data, error, again } = useGet<View>("/api/training", { run, seed });
  useEffect(() => {
    if (!data?.live) return;
    const timer = setInterval(again, 1500);
    return () => clearInterval(timer);
  }, [data?.live]);
  if (error) return <><h1>Training</h1><Problem words={error} /></>;
  if (!data) return <Waiting for="the training log" />;
  const grid: Grid = { head: ["step", "loss", "learning rate"], rows: data.log.map((each) => [each.step, each.loss.toFixed(5), each.rate.toExponential(3)]) };
  const smooth = average(data.log.map((each) => each.loss));
  const timed = data.log.filter((each) => each.seconds! > 0 && each.tokens! > 0);
  return (
    <>
      <div class="headline"><h1>Training</h1><Seeds seeds={data.seeds} seed={data.seed ?? null} set={(next) => go(address("/training", { run, seed: next }), true)} /></div>
      <dl class="facts wide">
        <Fact name="steps">{data.live && <i class="pulse" aria-hidden="true" />}{data.log.length}{data.total > data.log.length && ` of ${data.total}`}</Fact>
        <Fact name="examples">{whole(data.examples)}</Fact>
        <Fact name="tokens">{short(data.tokens)}</Fact>
        <Fact name="time">{seconds(data.seconds)}</Fact>
        <Fact name="throughput">{data.tokens_per_second ? `${whole(data.tokens_per_second)} tokens/s` : "–"}</Fact>
        {data.log.length > 0 && <Fact name="last loss">{data.log.at(-1)!.loss.toFixed(3)}</Fact>}
      </dl>
      {data.log.length > 0 && (
        <div class="columns two">
          <section><h2>Loss</h2><Curves name="loss" label="Training loss by step" caption="Pale: each step. Full: mean of nine steps." curves={[
            { arm: "pale", label: "each step", points: data.log.map((each) => [each.step, each.loss]) },
            { arm: "memory", label: "mean of nine", points: data.log.map((each, index) => [each.step, smooth[index]!]) },
          ]} grid={grid} xLabel="optimiser step" yLabel="loss" marks={false} height={250} /></section>
          <section><h2>Learning rate</h2><Curves name="rate" label="Learning rate by step" caption="As the optimiser had it." curves={[{ arm: "memory", label: "rate", points: data.log.map((each) => [each.step, each.rate]) }]}
            grid={grid} xLabel="optimiser step" yLabel="rate" marks={false} height={250} text={(value) => (value === 0 ? "0" : value.toExponential(0))} /></section>
        </div>
      )}
      {timed.length > 1 && <section><h2>Throughput</h2><Curves name="throughput" label="Tokens a second by step" caption="Tokens of a step by the time since the step before." grid={{ head: ["step", "tokens/s"], rows: speed(timed).map(([step, rate]) => [step, rate.toFixed(0)]) }}
        curves={[{ arm: "both", label: "tokens/s", points: speed(timed) }]} xLabel="optimiser step" yLabel="tokens a second" marks={false} height={200} text={short} /></section>}
      <Mask run={run} seed={seed} index={Number(query.get("example") ?? 0)} />
      <section><h2>What was trained</h2>{data.words && <p class="soft"><Text of={data.words} /></p>}
        <dl class="facts">{Object.entries(data.facts).map(([name, value]) => <Fact name={name}><Text of={value} /></Fact>)}</dl></section>
    </>
  );
}

function Mask({ run, seed, index }: { run: string; seed: string; index: number }) {
  const { data, error } = useGet<S["ExampleView"]>("/api/example", { run, seed, index });
  const to = (next: number) => go(address("/training", { run, seed, example: next || null }), true);
  useKeys((key) => {
    if (!data) return false;
    if (key === "ArrowRight" && index + 1 < data.of) to(index + 1);
    else if (key === "ArrowLeft" && index > 0) to(index - 1);
    else return false;
    return true;
  });
  return (
    <section>
      <div class="headline"><h2>The loss mask</h2>
        <div class="stepper" role="group" aria-label="Training examples">
          <button type="button" onClick={() => to(index - 1)} disabled={index <= 0} aria-label="Example before">←</button>
          <span role="status">example {index + 1}{data && ` of ${whole(data.of)}`}</span>
          <button type="button" onClick={() => to(index + 1)} disabled={!data || index + 1 >= data.of} aria-label="Next example">→</button>
        </div>
      </div>
      {error && <Problem words={error} />}
      {!error && !data && <Waiting for="a training example" />}
      {data && <>
        <p class="soft"><mark class="learned">Marked tokens are learned</mark>: {whole(data.learned)} of {whole(data.tokens)} ({percent(data.learned / data.tokens)}). All others are only read. Made by the functions that training calls.</p>
        <p class="soft">{data.episode ? <a href={address("/episode", { run, ref: data.episode })}><Text of={data.task} /></a> : <Text of={data.task} />}
          {data.memories.length > 0 ? <> · with the memories {data.memories.map((id) => <><MemoryLink run={run} id={id} seed={seed} /> </>)}</> : " · without memories"}</p>
        <div class="mask" role="region" aria-label="A training example, token by token" tabIndex={0}>
          {(data.spans ?? []).map((part) => part.weight > 0
            ? <mark class="learned">{part.tokens.map((token) => <span class="token"><Text of={token} /></span>)}</mark>
            : <span class="read">{part.tokens.map((token) => <span class="token"><Text of={token} /></span>)}</span>)}
        </div>
      </>}
    </section>
  );
}

function average(values: number[]): number[] {
  return values.map((_, index) => {
    const near = values.slice(Math.max(0, index - 4), index + 5);
    return near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}

function speed(log: View["log"]): [number, number][] {
  return log.slice(1).flatMap((each, index) => {
    const spent = each.seconds! - log[index]!.seconds!;
    return spent > 0 ? [[each.step, each.tokens! / spent] as [number, number]] : [];
  });
}
