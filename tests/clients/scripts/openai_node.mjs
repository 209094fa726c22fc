import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI();
const model = process.env.MODEL;
const messages = [{ role: "user", content: "What is the capital of France?" }];
const paris = "The capital of France is Paris.";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const asked = [{ role: "user", content: "What is the weather in Montreal?" }];

const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
assert.equal(whole.choices[0].message.content, paris);

const stream = client.chat.completions.stream({ model, messages, temperature: 0 });
assert.equal(await stream.finalContent(), paris);

const Place = z.object({ city: z.enum(["Paris", "Rome"]) });
const parsed = await client.chat.completions.parse({
  model, messages, response_format: zodResponseFormat(Place, "place"),
});
assert.ok(["Paris", "Rome"].includes(parsed.choices[0].message.parsed.city));

const cities = [];
const runner = client.chat.completions.runTools({
  model, temperature: 0, messages: asked,
  tools: [{
    type: "function",
    function: {
      name: "get_weather", description: "Get the current weather", parameters, parse: JSON.parse,
      function: ({ city }) => { cities.push(city); return JSON.stringify({ temperature: 20, condition: "sunny" }); },
    },
  }],
});
assert.equal(await runner.finalContent(), "It is 20 degrees and sunny in Montreal.");
assert.deepEqual(cities, ["Montreal"]);

const response = await client.responses.create({ model, input: messages[0].content, temperature: 0 });
assert.equal(response.output_text, paris);
let text = "";
const events = await client.responses.create({
  model, input: messages[0].content, temperature: 0, stream: true,
});
for await (const event of events) {
  if (event.type === "response.output_text.delta") text += event.delta;
}
assert.equal(text, paris);
assert.equal((await client.responses.retrieve(response.id)).output_text, paris);
const items = await client.responses.inputItems.list(response.id);
assert.equal(items.data.length, 1);
await client.responses.delete(response.id);

const continued = await client.completions.create({ model, prompt: "The capital", max_tokens: 4 });
assert.equal(continued.usage.completion_tokens, 4);
const vectors = await client.embeddings.create({ model, input: ["one", "two"] });
assert.equal(vectors.data.length, 2);

const ids = [];
for await (const one of client.models.list()) ids.push(one.id);
assert.ok(ids.includes(model));

const row = JSON.stringify({ messages: [...messages, { role: "assistant", content: "Paris." }] });
const file = await client.files.create({
  file: await toFile(Buffer.from(`${row}\n`.repeat(10)), "rows.jsonl"), purpose: "fine-tune",
});
assert.ok((await (await client.files.content(file.id)).text()).includes("Paris."));
const job = await client.fineTuning.jobs.create({
  model, training_file: file.id, seed: 1,
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1 } } },
});
assert.equal((await client.fineTuning.jobs.retrieve(job.id)).id, job.id);
await client.fineTuning.jobs.cancel(job.id);
await client.files.delete(file.id);

await assert.rejects(
  client.chat.completions.create({ model: "none", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
