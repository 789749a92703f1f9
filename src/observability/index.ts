/** What an operator sees: the log, the audit log and the metrics. */
export { type AuditLog, AuditLogError, openAuditLog } from './audit-log.js';
export type { CallObserver } from './events.js';
export { coreEvents, createLogger, type Logger } from './logger.js';
export { createMetrics, type Metrics } from './metrics.js';
export { type MetricsServer, startMetricsServer } from './metrics-server.js';
export { backendObserver, callObserver } from './observers.js';
