import assert from "node:assert/strict";
import { openai } from "@ai-sdk/openai";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const name = process.env.MODEL;
const prompt = "What is the capital of France?";
const paris = "The capital of France is Paris.";
const schema = z.object({ city: z.enum(["Paris", "Rome"]) });

for (const model of [openai(name), openai.chat(name)]) {
  const whole = await generateText({ model, prompt, temperature: 0 });
  assert.equal(whole.text, paris);
  assert.ok(whole.usage.outputTokens > 0);

  let streamed = "";
  for await (const text of streamText({ model, prompt, temperature: 0 }).textStream) streamed += text;
  assert.equal(streamed, paris);

  const { object } = await generateObject({ model, schema, prompt });
  assert.ok(["Paris", "Rome"].includes(object.city));

  const cities = [];
  const called = await generateText({
    model, temperature: 0, prompt: "What is the weather in Montreal?", stopWhen: stepCountIs(2),
    tools: {
      get_weather: tool({
        description: "Get the current weather",
        inputSchema: z.object({ city: z.string() }),
        execute: async ({ city }) => { cities.push(city); return { temperature: 20, condition: "sunny" }; },
      }),
    },
  });
  assert.deepEqual(cities, ["Montreal"]);
  assert.equal(called.text, "It is 20 degrees and sunny in Montreal.");
}

const continued = await generateText({ model: openai.completion(name), prompt, maxOutputTokens: 4 });
assert.ok(continued.usage.outputTokens > 0);

const { embeddings } = await embedMany({ model: openai.embedding(name), values: ["one", "two"] });
assert.equal(embeddings.length, 2);
