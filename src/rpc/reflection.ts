import type { handleBidiStreamingCall, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import descriptorModule from 'protobufjs/ext/descriptor/index.js';
import { descriptorSet } from '../generated/descriptor-set.js';

/*
 * Server reflection (grpc.reflection.v1 and v1alpha, which differ in the package's name only), answered from the descriptors
 * as the compiler made them. The loader's own lose the imports between files.
 */

interface FileDescriptor {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly dependencies: readonly string[];
  readonly services: readonly string[];
  /** Full names of everything that the file declares. */
  readonly symbols: readonly string[];
}

interface NamedDescriptor {
  readonly name: string;
  readonly nestedType?: readonly NamedDescriptor[];
  readonly enumType?: readonly NamedDescriptor[];
  readonly field?: readonly NamedDescriptor[];
  readonly method?: readonly NamedDescriptor[];
}

interface DecodedFile {
  readonly name: string;
  readonly package: string;
  readonly dependency: readonly string[];
  readonly messageType: readonly NamedDescriptor[];
  readonly enumType: readonly NamedDescriptor[];
  readonly service: readonly NamedDescriptor[];
}

interface ReflectionRequest {
  readonly host: string;
  readonly messageRequest?: string;
  readonly fileByFilename?: string;
  readonly fileContainingSymbol?: string;
  readonly fileContainingExtension?: { readonly containingType: string; readonly extensionNumber: number };
  readonly allExtensionNumbersOfType?: string;
  readonly listServices?: string;
}

const NOT_FOUND = 5;
const UNIMPLEMENTED = 12;

/** The messages of the reflection protocol, as its specification numbers them. */
const reflectionMessages: Record<string, protobuf.AnyNestedObject> = {
  ServerReflection: {
    methods: {
      ServerReflectionInfo: {
        requestType: 'ServerReflectionRequest',
        requestStream: true,
        responseType: 'ServerReflectionResponse',
        responseStream: true,
        comment: '',
      },
    },
  },
  ServerReflectionRequest: {
    oneofs: {
      messageRequest: {
        oneof: [
          'fileByFilename',
          'fileContainingSymbol',
          'fileContainingExtension',
          'allExtensionNumbersOfType',
          'listServices',
        ],
      },
    },
    fields: {
      host: { type: 'string', id: 1 },
      fileByFilename: { type: 'string', id: 3 },
      fileContainingSymbol: { type: 'string', id: 4 },
      fileContainingExtension: { type: 'ExtensionRequest', id: 5 },
      allExtensionNumbersOfType: { type: 'string', id: 6 },
      listServices: { type: 'string', id: 7 },
    },
  },
  ExtensionRequest: {
    fields: { containingType: { type: 'string', id: 1 }, extensionNumber: { type: 'int32', id: 2 } },
  },
  ServerReflectionResponse: {
    oneofs: {
      messageResponse: {
        oneof: ['fileDescriptorResponse', 'allExtensionNumbersResponse', 'listServicesResponse', 'errorResponse'],
      },
    },
    fields: {
      validHost: { type: 'string', id: 1 },
      originalRequest: { type: 'ServerReflectionRequest', id: 2 },
      fileDescriptorResponse: { type: 'FileDescriptorResponse', id: 4 },
      allExtensionNumbersResponse: { type: 'ExtensionNumberResponse', id: 5 },
      listServicesResponse: { type: 'ListServiceResponse', id: 6 },
      errorResponse: { type: 'ErrorResponse', id: 7 },
    },
  },
  FileDescriptorResponse: { fields: { fileDescriptorProto: { rule: 'repeated', type: 'bytes', id: 1 } } },
  ExtensionNumberResponse: {
    fields: {
      baseTypeName: { type: 'string', id: 1 },
      extensionNumber: { rule: 'repeated', type: 'int32', id: 2 },
    },
  },
  ListServiceResponse: { fields: { service: { rule: 'repeated', type: 'ServiceResponse', id: 1 } } },
  ServiceResponse: { fields: { name: { type: 'string', id: 1 } } },
  ErrorResponse: {
    fields: { errorCode: { type: 'int32', id: 1 }, errorMessage: { type: 'string', id: 2 } },
  },
};

function reflectionRoot(packageName: string): protobuf.Root {
  return protobuf.Root.fromJSON({ nested: { [packageName]: { nested: reflectionMessages } } });
}

/** Splits a FileDescriptorSet into its files and leaves their bytes as they are. */
function splitSet(bytes: Uint8Array): Uint8Array[] {
  const reader = protobuf.Reader.create(bytes);
  const files: Uint8Array[] = [];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === 0x0a) files.push(Uint8Array.from(reader.bytes()));
    else reader.skipType(tag & 7);
  }
  return files;
}

function describe(bytes: Uint8Array): FileDescriptor {
  const type = descriptorModule.FileDescriptorProto;
  const file = type.toObject(type.decode(bytes), { arrays: true, defaults: true }) as DecodedFile;
  const symbols: string[] = [];
  const collect = (scope: string, descriptors: readonly NamedDescriptor[] | undefined): void => {
    for (const item of descriptors ?? []) {
      const name = scope === '' ? item.name : `${scope}.${item.name}`;
      symbols.push(name);
      collect(name, item.nestedType);
      collect(name, item.enumType);
      collect(name, item.field);
      collect(name, item.method);
    }
  };
  collect(file.package, file.messageType);
  collect(file.package, file.enumType);
  collect(file.package, file.service);
  return {
    name: file.name,
    bytes,
    dependencies: file.dependency,
    services: file.service.map((service) => `${file.package}.${service.name}`),
    symbols,
  };
}

/** The file of the reflection protocol itself. It imports nothing and has no map, and so the loader describes it rightly. */
function filesOfRoot(root: protobuf.Root, fileName: string): FileDescriptor[] {
  root.resolveAll();
  const set = (root as protobuf.Root & { toDescriptor(edition: string): protobuf.Message }).toDescriptor('proto3');
  const encoded = descriptorModule.FileDescriptorSet.encode(set).finish();
  return splitSet(encoded).map((bytes) => {
    const type = descriptorModule.FileDescriptorProto;
    const file = type.decode(bytes) as protobuf.Message & { name: string };
    file.name = fileName;
    return describe(type.encode(file).finish());
  });
}

class Catalogue {
  readonly #byName = new Map<string, FileDescriptor>();
  readonly #bySymbol = new Map<string, FileDescriptor>();
  readonly services: readonly string[];

  constructor(files: readonly FileDescriptor[]) {
    for (const file of files) {
      this.#byName.set(file.name, file);
      for (const symbol of file.symbols) this.#bySymbol.set(symbol, file);
    }
    this.services = files.flatMap((file) => file.services).sort();
  }

  byName(name: string): readonly Uint8Array[] | undefined {
    return this.#withDependencies(this.#byName.get(name));
  }

  bySymbol(symbol: string): readonly Uint8Array[] | undefined {
    return this.#withDependencies(this.#bySymbol.get(symbol));
  }

  // Clients may ask for each import by itself, but not all do.
  #withDependencies(file: FileDescriptor | undefined): readonly Uint8Array[] | undefined {
    if (file === undefined) return undefined;
    const found = new Map<string, FileDescriptor>();
    const add = (next: FileDescriptor): void => {
      if (found.has(next.name)) return;
      found.set(next.name, next);
      for (const name of next.dependencies) {
        const dependency = this.#byName.get(name);
        if (dependency !== undefined) add(dependency);
      }
    };
    add(file);
    return [...found.values()].map((each) => each.bytes);
  }
}

function respond(request: ReflectionRequest, catalogue: Catalogue): object {
  const base = { validHost: request.host, originalRequest: request };
  const notFound = (what: string): object => ({
    ...base,
    errorResponse: { errorCode: NOT_FOUND, errorMessage: `There is no ${what.slice(0, 200)} here.` },
  });
  const files = (found: readonly Uint8Array[] | undefined, what: string): object =>
    found === undefined ? notFound(what) : { ...base, fileDescriptorResponse: { fileDescriptorProto: found } };
  switch (request.messageRequest) {
    case 'fileByFilename':
      return files(catalogue.byName(request.fileByFilename ?? ''), `file ${request.fileByFilename}`);
    case 'fileContainingSymbol':
      return files(catalogue.bySymbol(request.fileContainingSymbol ?? ''), `symbol ${request.fileContainingSymbol}`);
    case 'fileContainingExtension':
      return notFound('extension');
    case 'allExtensionNumbersOfType':
      return catalogue.bySymbol(request.allExtensionNumbersOfType ?? '') === undefined
        ? notFound(`type ${request.allExtensionNumbersOfType}`)
        : { ...base, allExtensionNumbersResponse: { baseTypeName: request.allExtensionNumbersOfType } };
    case 'listServices':
      return { ...base, listServicesResponse: { service: catalogue.services.map((name) => ({ name })) } };
    default:
      return { ...base, errorResponse: { errorCode: UNIMPLEMENTED, errorMessage: 'This request is not known here.' } };
  }
}

/** The reflection services: definitions and implementations to add to a server. */
export function reflectionServices(): readonly {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}[] {
  const roots = ['grpc.reflection.v1', 'grpc.reflection.v1alpha'].map((name) => ({ name, root: reflectionRoot(name) }));
  const catalogue = new Catalogue([
    ...splitSet(Buffer.from(descriptorSet, 'base64')).map(describe),
    ...roots.flatMap(({ name, root }) => filesOfRoot(root, `${name.replaceAll('.', '/')}/reflection.proto`)),
  ]);
  const info: handleBidiStreamingCall<ReflectionRequest, object> = (call) => {
    call.on('data', (request: ReflectionRequest) => call.write(respond(request, catalogue)));
    call.on('end', () => call.end());
    // The caller went away in the middle; there is nothing to undo and nobody to tell.
    call.on('error', () => call.end());
  };
  return roots.map(({ name, root }) => {
    const request = root.lookupType(`${name}.ServerReflectionRequest`);
    const response = root.lookupType(`${name}.ServerReflectionResponse`);
    const definition: ServiceDefinition = {
      ServerReflectionInfo: {
        path: `/${name}.ServerReflection/ServerReflectionInfo`,
        requestStream: true,
        responseStream: true,
        requestSerialize: (value: object) => Buffer.from(request.encode(request.fromObject(value)).finish()),
        requestDeserialize: (bytes: Buffer) => request.toObject(request.decode(bytes), { oneofs: true }),
        responseSerialize: (value: object) => Buffer.from(response.encode(response.fromObject(value)).finish()),
        responseDeserialize: (bytes: Buffer) => response.toObject(response.decode(bytes), { oneofs: true }),
      },
    };
    return { definition, implementation: { ServerReflectionInfo: info } };
  });
}
