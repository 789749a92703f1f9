/** Certificates for TLS, read again when their files change; a leaf. */
export {
  CERTIFICATE_INTERVAL_MILLISECONDS,
  type CertificateEvent,
  CertificateFileError,
  type CertificatePaths,
  WatchedCertificates,
} from './watched-certificates.js';
