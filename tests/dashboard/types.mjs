// Prints the TypeScript declarations of a JSON Schema: node types.mjs PACKAGES SCHEMA. PACKAGES is a folder where `npm ci` was run.

import { createRequire } from 'node:module';

const [packages, schema] = process.argv.slice(2);
const { compileFromFile } = createRequire(`${packages}/`)('json-schema-to-typescript');
const text = await compileFromFile(schema, {
  additionalProperties: false,
  bannerComment: '// What the API answers. Made from weir.api-1.schema.json: WEIR_BLESS=1 cargo test --test dashboard',
  style: { printWidth: 140, singleQuote: true },
});
process.stdout.write(text);
