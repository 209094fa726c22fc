import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "tuneyard",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const name = process.env.MODEL;
const model = provider(name);
const prompt = "What is the capital of France?";
const paris = "The capital of France is Paris.";

const whole = await generateText({ model, prompt, temperature: 0 });
assert.equal(whole.text, paris);

const stream = streamText({ model, prompt, temperature: 0 });
let streamed = "";
for await (const text of stream.textStream) streamed += text;
assert.equal(streamed, paris);
assert.ok((await stream.usage).outputTokens > 0);

const schema = z.object({ city: z.enum(["Paris", "Rome"]) });
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

const continued = await generateText({
  model: provider.completionModel(name), prompt, maxOutputTokens: 4,
});
assert.ok(continued.usage.outputTokens > 0);
const { embedding } = await embed({ model: provider.textEmbeddingModel(name), value: "one" });
assert.ok(embedding.length > 0);
