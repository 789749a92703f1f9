/** What an operator sees: the log and the metrics. */
export { coreEvents, createLogger, type Logger } from './logger.js';
export { createMetrics, type Metrics } from './metrics.js';
export { type MetricsServer, startMetricsServer } from './metrics-server.js';
export { backendObserver, callObserver } from './observers.js';
