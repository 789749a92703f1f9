/** The controller's configuration: one schema; file, environment and flags. */
export { ConfigurationError, configurationJsonSchema, loadConfiguration, type Sources } from './load.js';
export type { Configuration } from './schema.js';
