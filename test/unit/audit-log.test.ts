import { mkdtempSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { MoorageError } from '../../src/core/errors.js';
import { AuditLogError, openAuditLog } from '../../src/observability/index.js';
import { methodRules } from '../../src/rpc/roles.js';
import { callRaw } from '../helpers/call-raw.js';
import { TestAuthority } from '../helpers/certificates.js';
import { fakeServices, sampleExport, sampleVolume } from '../helpers/fake-services.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';

const storage = '/moorage.v1.StorageControllerService';
const call = {
  requestId: 'r-1',
  method: `${storage}/DeleteVolume`,
  principal: 'alice',
  role: 'admin',
  code: 'OK',
  milliseconds: 3,
  message: '',
  peer: '192.0.2.7:4711',
  subjects: { volume_id: 'vol-0123456789abcdef0' },
  audited: true,
};

describe('the audit log', () => {
  let folder: string;
  let path: string;
  const failures: unknown[] = [];
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-audit-'));
    path = join(folder, 'audit.log');
    failures.length = 0;
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const lines = (file = path): Record<string, unknown>[] =>
    readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  describe('the file', () => {
    it('is only its owner’s, and only appended to, also after another start', () => {
      for (const requestId of ['r-1', 'r-2']) {
        const audit = openAuditLog(path, (error) => failures.push(error));
        audit.callEnded({ ...call, requestId });
        audit.close();
      }
      expect(statSync(path).mode & 0o777).to.equal(0o600);
      expect(lines().map((line) => line.request_id)).to.deep.equal(['r-1', 'r-2']);
      expect(lines()[0]).to.include({
        principal: 'alice',
        role: 'admin',
        peer: '192.0.2.7:4711',
        method: 'moorage.v1.StorageControllerService/DeleteVolume',
        volume_id: 'vol-0123456789abcdef0',
        code: 'OK',
      });
      expect(Date.parse(String(lines()[0]?.time))).to.be.within(Date.now() - 60_000, Date.now());
      expect(failures).to.deep.equal([]);
    });

    it('goes on under its name when it is renamed, with a signal and without', () => {
      const audit = openAuditLog(path, (error) => failures.push(error));
      audit.callEnded({ ...call, requestId: 'before' });
      renameSync(path, `${path}.1`);
      audit.callEnded({ ...call, requestId: 'after' });
      renameSync(path, `${path}.2`);
      audit.reopen();
      audit.callEnded({ ...call, requestId: 'reopened' });
      audit.close();
      expect([`${path}.1`, `${path}.2`, path].map((file) => lines(file).map((line) => line.request_id))).to.deep.equal([
        ['before'],
        ['after'],
        ['reopened'],
      ]);
      expect(failures).to.deep.equal([]);
    });

    it('that others may read, that is a link or no file is refused', () => {
      writeFileSync(path, '', { mode: 0o644 });
      expect(() => openAuditLog(path, () => undefined)).to.throw(AuditLogError, 'chmod 0600');
      symlinkSync(path, join(folder, 'link'));
      expect(() => openAuditLog(join(folder, 'link'), () => undefined)).to.throw(AuditLogError, 'ELOOP');
      expect(() => openAuditLog(folder, () => undefined)).to.throw(AuditLogError, 'EISDIR');
      expect(() => openAuditLog(join(folder, 'none', 'audit.log'), () => undefined)).to.throw(AuditLogError, 'ENOENT');
    });

    it('that cannot be written is told, and tried again', () => {
      const audit = openAuditLog(path, (error) => failures.push(error));
      rmSync(path);
      symlinkSync('/nowhere/at/all', path);
      audit.callEnded(call);
      expect(failures).to.have.length(1);
      rmSync(path);
      audit.callEnded({ ...call, requestId: 'again' });
      audit.close();
      expect(lines().map((line) => line.request_id)).to.deep.equal(['again']);
    });

    it('takes out what looks like a secret', () => {
      const audit = openAuditLog(path, (error) => failures.push(error));
      const key = `AQ${'B'.repeat(36)}==`;
      audit.callEnded({ ...call, principal: key });
      audit.close();
      expect(readFileSync(path, 'utf8')).not.to.contain(key);
    });
  });

  describe('of a server', () => {
    let running: TestServer | undefined;
    afterEach(async () => {
      await running?.server.stop(0);
      running = undefined;
    });
    const audited = (): { method: string; code: string; [name: string]: unknown }[] =>
      (running?.ended ?? []).filter((each) => each.audited).map(({ subjects, ...each }) => ({ ...each, ...subjects }));

    it('has every method that changes something and no other, with what it is about', async () => {
      const answer = { value: sampleVolume, etag: '' };
      const methods = {
        'volumes.get': async () => answer,
        'volumes.create': async () => ({ resource: answer, operationId: 'op-0123456789abcdef0' }),
        'exports.unexport': async () => {
          throw new MoorageError('FAILED_PRECONDITION', 'It is open.', { reason: 'EXPORT_OPEN' });
        },
      };
      running = await serve(fakeServices(methods).services, [plainListener]);
      const address = running.server.addresses[0] ?? '';
      for (const path of Object.keys(methodRules)) {
        const force = path.endsWith('/Unexport');
        await callRaw(address, credentials.createInsecure(), path, {
          ...{ exportId: sampleExport.id, force, poolId: 'AQsecret==', clientToken: 'token-of-mine' },
          ...(path.endsWith('/CreatePool') ? { rbd: {} } : { grantId: 'grant-0123456789abcdef0' }),
        });
      }
      const changing = Object.keys(methodRules).filter((path) => methodRules[path]?.changes);
      expect(audited().map((each) => each.method)).to.deep.equal(changing);
      const created = audited().find((each) => each.method.endsWith('/CreateVolume'));
      expect(created).to.include({
        principal: 'local',
        role: 'admin',
        code: 'OK',
        volume_id: sampleVolume.id,
        operation_id: 'op-0123456789abcdef0',
        pool_id: '(no id)',
      });
      expect(created?.peer).to.match(/^127\.0\.0\.1:[0-9]+$/);
      expect(audited().find((each) => each.method.endsWith('/Unexport'))).to.include({
        code: 'FAILED_PRECONDITION',
        export_id: sampleExport.id,
        force: true,
      });
      expect(JSON.stringify(audited())).not.to.contain('AQsecret').and.not.to.contain('token-of-mine');
    });

    it('has every call that was refused for want of a right, also where a node is told that there is nothing', async () => {
      const authority = new TestAuthority(folder);
      const { certificate, key } = authority.server();
      const notFound = async () => {
        throw new MoorageError('NOT_FOUND', 'There is none.', { reason: 'NOT_FOUND' });
      };
      running = await serve(fakeServices({ 'exports.get': notFound }).services, [
        { address: '127.0.0.1:0', security: { kind: 'tls', certificate, key, clientCa: authority.certificate } },
      ]);
      const address = running.server.addresses[0] ?? '';
      const as = (role: string) => {
        const pair = authority.client(role, `/OU=${role}/CN=${role}-1`);
        const read = (path: string) => readFileSync(path);
        return credentials.createSsl(read(authority.certificate), read(pair.key), read(pair.certificate));
      };
      const request = { exportId: sampleExport.id };
      expect((await callRaw(address, as('root'), `${storage}/GetExport`, request)).code).to.equal(
        status.UNAUTHENTICATED,
      );
      expect((await callRaw(address, as('node'), `${storage}/ListVolumes`, {})).code).to.equal(
        status.PERMISSION_DENIED,
      );
      expect((await callRaw(address, as('node'), `${storage}/GetExport`, request)).code).to.equal(status.NOT_FOUND);
      expect((await callRaw(address, as('reader'), `${storage}/GetExport`, request)).code).to.equal(status.NOT_FOUND);
      expect(audited().map(({ principal, role, code }) => [principal, role, code])).to.deep.equal([
        ['', '', 'UNAUTHENTICATED'],
        ['node-1', 'node', 'PERMISSION_DENIED'],
        ['node-1', 'node', 'NOT_FOUND'],
      ]);
      expect(audited().at(-1)).to.include({ export_id: sampleExport.id });
    });
  });
});
