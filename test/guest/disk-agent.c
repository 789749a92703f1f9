/*
 * The test guest's only program: takes commands from a serial port, one a line ("<id> <command> <arguments>"), and
 * answers each with one line of JSON that carries the id. Its disks are read and written past the page cache, so that
 * what it says is what the disk holds.
 *
 *   list-disks                                       name, size, serial, read-only of each
 *   size DEVICE                                      in bytes, as the kernel knows it now
 *   write-pattern DEVICE SEED OFFSET LENGTH          bytes that follow from seed and position; flushed before the answer
 *   read-pattern DEVICE SEED OFFSET LENGTH           compares with those
 *   checksum DEVICE OFFSET LENGTH                    of what is there (FNV-1a, 64 bits)
 *   discard DEVICE OFFSET LENGTH
 *   start-writer DEVICE [INTERVAL_MS [OFFSET LENGTH]] numbered 4 KiB records, round robin over the area, one at a time
 *   writer-status [DEVICE]                           counts, errors, the longest pause between two completed writes
 *   reset-pause [DEVICE]                             begins a new longest pause
 *   stop-writer [DEVICE]
 *   check-records DEVICE [OFFSET LENGTH]             is the area as it was after some record, all before it included?
 *   poweroff
 *
 * Offsets and lengths are bytes, multiples of 512 (areas: of 4096). The default area is the first 4 MiB.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1024 * 1024)
#define RECORD 4096
#define DEFAULT_AREA (4 * 1024 * 1024)
#define MAXIMUM_WRITERS 16
#define MAXIMUM_ARGUMENTS 8

static FILE *answers;
static char *current_id;

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static double milliseconds(uint64_t nanoseconds) { return (double)nanoseconds / 1e6; }

/* Texts of the kernel and of arguments, as they may stand in a JSON string. */
static const char *escaped(const char *text) {
  static char buffers[4][512];
  static int next;
  char *buffer = buffers[next = (next + 1) % 4];
  size_t length = 0;
  for (; *text && length < 500; text++) {
    unsigned char character = (unsigned char)*text;
    if (character == '"' || character == '\\') buffer[length++] = '\\';
    if (character >= 0x20 && character < 0x7f) buffer[length++] = (char)character;
  }
  buffer[length] = 0;
  return buffer;
}

static void answer(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(answers, "{\"id\":\"%s\",", escaped(current_id));
  vfprintf(answers, format, arguments);
  fprintf(answers, "}\n");
  fflush(answers);
  va_end(arguments);
}

static void answer_failure(const char *what, int error) {
  answer("\"ok\":false,\"errno\":%d,\"error\":\"%s: %s\"", error, escaped(what), escaped(strerror(error)));
}

/* "vda" or "/dev/vda" */
static const char *device_path(const char *name, char *path, size_t size) {
  snprintf(path, size, "%s%s", name[0] == '/' ? "" : "/dev/", name);
  return path;
}

static int open_device(const char *name, int flags) {
  char path[128];
  int file = open(device_path(name, path, sizeof path), flags | O_DIRECT | O_CLOEXEC);
  if (file < 0) answer_failure(path, errno);
  return file;
}

static void *aligned_buffer(size_t size) {
  void *buffer = NULL;
  if (posix_memalign(&buffer, 4096, size) != 0) abort();
  return buffer;
}

/* Reads or writes all of it; gives 0 or an errno. */
static int transfer(int file, int writing, char *buffer, size_t length, uint64_t offset) {
  while (length > 0) {
    ssize_t done = writing ? pwrite(file, buffer, length, (off_t)offset) : pread(file, buffer, length, (off_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    if (done == 0) return ENOSPC;
    buffer += done;
    offset += (uint64_t)done;
    length -= (size_t)done;
  }
  return 0;
}

static uint64_t mixed(uint64_t value) { /* the finalizer of splitmix64 */
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

static void fill_pattern(uint64_t *words, size_t bytes, uint64_t seed, uint64_t offset) {
  uint64_t key = mixed(seed);
  for (size_t index = 0; index < bytes / 8; index++) words[index] = mixed(key ^ (offset / 8 + index));
}

static uint64_t fnv(const void *data, size_t length, uint64_t hash) {
  const unsigned char *bytes = data;
  for (size_t index = 0; index < length; index++) hash = (hash ^ bytes[index]) * 0x100000001b3u;
  return hash;
}

#define FNV_START 0xcbf29ce484222325u

static int number(const char *text, uint64_t *value) {
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 0);
  return errno == 0 && *end == 0 && end != text && text[0] != '-';
}

static void pattern(const char *device, uint64_t seed, uint64_t offset, uint64_t length, int writing) {
  int file = open_device(device, writing ? O_RDWR : O_RDONLY);
  if (file < 0) return;
  uint64_t *expected = aligned_buffer(CHUNK), *found = aligned_buffer(CHUNK);
  uint64_t begin = now_ns();
  int error = 0;
  for (uint64_t done = 0; done < length && !error;) {
    size_t part = length - done < CHUNK ? (size_t)(length - done) : CHUNK;
    fill_pattern(expected, part, seed, offset + done);
    error = transfer(file, writing, (char *)(writing ? expected : found), part, offset + done);
    if (!error && !writing && memcmp(expected, found, part) != 0) {
      size_t word = 0;
      while (expected[word] == found[word]) word++;
      answer("\"ok\":false,\"error\":\"other data\",\"mismatch\":%" PRIu64 ",\"expected\":\"%016" PRIx64
             "\",\"found\":\"%016" PRIx64 "\"",
             offset + done + word * 8, expected[word], found[word]);
      goto out;
    }
    done += part;
  }
  if (!error && writing && fsync(file) != 0) error = errno;
  if (error)
    answer_failure(device, error);
  else
    answer("\"ok\":true,\"bytes\":%" PRIu64 ",\"ms\":%.3f", length, milliseconds(now_ns() - begin));
out:
  free(expected);
  free(found);
  close(file);
}

static void checksum(const char *device, uint64_t offset, uint64_t length) {
  int file = open_device(device, O_RDONLY);
  if (file < 0) return;
  char *buffer = aligned_buffer(CHUNK);
  uint64_t hash = FNV_START;
  int error = 0;
  for (uint64_t done = 0; done < length && !error;) {
    size_t part = length - done < CHUNK ? (size_t)(length - done) : CHUNK;
    error = transfer(file, 0, buffer, part, offset + done);
    if (!error) hash = fnv(buffer, part, hash);
    done += part;
  }
  if (error)
    answer_failure(device, error);
  else
    answer("\"ok\":true,\"checksum\":\"%016" PRIx64 "\"", hash);
  free(buffer);
  close(file);
}

static void discard(const char *device, uint64_t offset, uint64_t length) {
  int file = open_device(device, O_RDWR);
  if (file < 0) return;
  uint64_t range[2] = {offset, length};
  if (ioctl(file, BLKDISCARD, range) != 0)
    answer_failure(device, errno);
  else
    answer("\"ok\":true,\"bytes\":%" PRIu64, length);
  close(file);
}

/* ---- numbered records ---- */

struct record {
  char magic[8];
  uint64_t number; /* from 1 */
  uint64_t slot;
  uint64_t time_ns;
  uint64_t filler[(RECORD - 40) / 8];
  uint64_t checksum; /* of all before it */
};
_Static_assert(sizeof(struct record) == RECORD, "a record is one block");

static void make_record(struct record *record, uint64_t sequence, uint64_t slot) {
  memcpy(record->magic, "MOORREC1", 8);
  record->number = sequence;
  record->slot = slot;
  record->time_ns = now_ns();
  uint64_t key = mixed(sequence);
  for (size_t index = 0; index < sizeof record->filler / 8; index++) record->filler[index] = key + index;
  record->checksum = fnv(record, offsetof(struct record, checksum), FNV_START);
}

struct records {
  uint64_t highest, valid, empty, corrupt, out_of_order, first_bad_slot;
};

static int is_zero(const void *data) {
  const uint64_t *words = data;
  for (size_t index = 0; index < RECORD / 8; index++)
    if (words[index]) return 0;
  return 1;
}

/* Gives 0 or an errno. Number n stands in slot (n - 1) mod slots, written only after n - 1 was on the disk. */
static int scan_records(int file, uint64_t offset, uint64_t length, struct records *result) {
  uint64_t slots = length / RECORD;
  uint64_t *numbers = calloc(slots, sizeof *numbers);
  char *buffer = aligned_buffer(CHUNK);
  int error = 0;
  if (!numbers) abort();
  memset(result, 0, sizeof *result);
  result->first_bad_slot = UINT64_MAX;
  for (uint64_t done = 0; done < length && !error;) {
    size_t part = length - done < CHUNK ? (size_t)(length - done) : CHUNK;
    error = transfer(file, 0, buffer, part, offset + done);
    for (size_t position = 0; !error && position < part; position += RECORD) {
      struct record *record = (struct record *)(buffer + position);
      uint64_t slot = (done + position) / RECORD;
      if (is_zero(record)) {
        result->empty++;
      } else if (memcmp(record->magic, "MOORREC1", 8) != 0 || record->slot != slot || record->number == 0 ||
                 record->checksum != fnv(record, offsetof(struct record, checksum), FNV_START)) {
        result->corrupt++;
        if (slot < result->first_bad_slot) result->first_bad_slot = slot;
      } else {
        result->valid++;
        numbers[slot] = record->number;
        if (record->number > result->highest) result->highest = record->number;
      }
    }
    done += part;
  }
  for (uint64_t slot = 0; !error && slot < slots; slot++) {
    uint64_t expected = 0;
    if (result->highest > slot) expected = slot + 1 + (result->highest - 1 - slot) / slots * slots;
    if (numbers[slot] != expected) {
      result->out_of_order++;
      if (slot < result->first_bad_slot) result->first_bad_slot = slot;
    }
  }
  free(numbers);
  free(buffer);
  return error;
}

static void check_records(const char *device, uint64_t offset, uint64_t length) {
  int file = open_device(device, O_RDONLY);
  if (file < 0) return;
  struct records found;
  int error = scan_records(file, offset, length, &found);
  close(file);
  if (error) {
    answer_failure(device, error);
    return;
  }
  int right = found.corrupt == 0 && found.out_of_order == 0;
  answer("\"ok\":%s,\"highest\":%" PRIu64 ",\"valid\":%" PRIu64 ",\"empty\":%" PRIu64 ",\"corrupt\":%" PRIu64
         ",\"out_of_order\":%" PRIu64 ",\"first_bad_slot\":%" PRId64,
         right ? "true" : "false", found.highest, found.valid, found.empty, found.corrupt, found.out_of_order,
         right ? (int64_t)-1 : (int64_t)found.first_bad_slot);
}

struct writer {
  int used, running, stopping, file;
  char device[64];
  uint64_t interval_ms, offset, slots, next_number;
  pthread_t thread;
  pthread_mutex_t lock; /* over what follows */
  uint64_t records, last_number, errors, begun_ns, last_done_ns, longest_pause_ns;
  int first_errno, last_errno;
};

static struct writer writers[MAXIMUM_WRITERS];

static void *write_records(void *argument) {
  struct writer *writer = argument;
  struct record *record = aligned_buffer(RECORD);
  while (!__atomic_load_n(&writer->stopping, __ATOMIC_ACQUIRE)) {
    uint64_t slot = (writer->next_number - 1) % writer->slots;
    make_record(record, writer->next_number, slot);
    int error = transfer(writer->file, 1, (char *)record, RECORD, writer->offset + slot * RECORD);
    pthread_mutex_lock(&writer->lock);
    if (error) {
      writer->errors++;
      if (!writer->first_errno) writer->first_errno = error;
      writer->last_errno = error;
    } else {
      uint64_t now = now_ns();
      if (now - writer->last_done_ns > writer->longest_pause_ns) writer->longest_pause_ns = now - writer->last_done_ns;
      writer->last_done_ns = now;
      writer->records++;
      writer->last_number = writer->next_number++;
    }
    pthread_mutex_unlock(&writer->lock);
    /* After an error the same number again, but not as fast as the processor can. */
    uint64_t pause = error && writer->interval_ms < 10 ? 10 : writer->interval_ms;
    if (pause) {
      struct timespec time = {(time_t)(pause / 1000), (long)(pause % 1000) * 1000000};
      nanosleep(&time, NULL);
    }
  }
  free(record);
  return NULL;
}

static struct writer *find_writer(const char *device) {
  char wanted[128], path[128];
  struct writer *only = NULL;
  int count = 0;
  for (int index = 0; index < MAXIMUM_WRITERS; index++) {
    struct writer *writer = &writers[index];
    if (!writer->used) continue;
    count++;
    only = writer;
    if (device && strcmp(device_path(device, wanted, sizeof wanted), device_path(writer->device, path, sizeof path)) == 0)
      return writer;
  }
  return !device && count == 1 ? only : NULL;
}

static void print_writer(struct writer *writer) {
  pthread_mutex_lock(&writer->lock);
  uint64_t now = now_ns(), longest = writer->longest_pause_ns;
  /* A write that has not come back is a pause too. */
  if (writer->running && now - writer->last_done_ns > longest) longest = now - writer->last_done_ns;
  fprintf(answers,
          "\"device\":\"%s\",\"running\":%s,\"records\":%" PRIu64 ",\"last_number\":%" PRIu64 ",\"errors\":%" PRIu64
          ",\"first_errno\":%d,\"last_errno\":%d,\"longest_pause_ms\":%.3f,\"ms\":%.3f",
          escaped(writer->device), writer->running ? "true" : "false", writer->records, writer->last_number, writer->errors,
          writer->first_errno, writer->last_errno, milliseconds(longest), milliseconds(now - writer->begun_ns));
  pthread_mutex_unlock(&writer->lock);
}

static void answer_writer(struct writer *writer) {
  fprintf(answers, "{\"id\":\"%s\",\"ok\":true,", escaped(current_id));
  print_writer(writer);
  fprintf(answers, "}\n");
  fflush(answers);
}

static void answer_writers(void) {
  int first = 1;
  fprintf(answers, "{\"id\":\"%s\",\"ok\":true,\"writers\":[", escaped(current_id));
  for (int index = 0; index < MAXIMUM_WRITERS; index++) {
    if (!writers[index].used) continue;
    fprintf(answers, first ? "{" : ",{");
    first = 0;
    print_writer(&writers[index]);
    fprintf(answers, "}");
  }
  fprintf(answers, "]}\n");
  fflush(answers);
}

static void start_writer(const char *device, uint64_t interval, uint64_t offset, uint64_t length) {
  struct writer *writer = find_writer(device);
  if (writer && writer->running) {
    answer("\"ok\":false,\"error\":\"a writer runs on %s already\"", escaped(device));
    return;
  }
  for (int index = 0; !writer && index < MAXIMUM_WRITERS; index++)
    if (!writers[index].used) writer = &writers[index];
  if (!writer) {
    answer("\"ok\":false,\"error\":\"no more than %d writers\"", MAXIMUM_WRITERS);
    return;
  }
  int file = open_device(device, O_RDWR | O_DSYNC);
  if (file < 0) return;
  struct records found;
  int error = scan_records(file, offset, length, &found);
  if (error) {
    answer_failure(device, error);
    close(file);
    return;
  }
  memset(writer, 0, sizeof *writer);
  snprintf(writer->device, sizeof writer->device, "%s", device);
  writer->file = file;
  writer->interval_ms = interval;
  writer->offset = offset;
  writer->slots = length / RECORD;
  writer->next_number = found.highest + 1; /* goes on where an earlier one ended */
  writer->last_number = found.highest;
  writer->begun_ns = writer->last_done_ns = now_ns();
  pthread_mutex_init(&writer->lock, NULL);
  writer->used = writer->running = 1;
  error = pthread_create(&writer->thread, NULL, write_records, writer);
  if (error) {
    writer->used = 0;
    close(file);
    answer_failure("pthread_create", error);
    return;
  }
  answer_writer(writer);
}

static void stop_writer(struct writer *writer) {
  if (writer->running) {
    __atomic_store_n(&writer->stopping, 1, __ATOMIC_RELEASE);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 40;
    if (pthread_timedjoin_np(writer->thread, NULL, &limit) != 0) {
      answer("\"ok\":false,\"error\":\"a write on %s does not come back\"", escaped(writer->device));
      return;
    }
    pthread_mutex_lock(&writer->lock);
    writer->running = 0;
    pthread_mutex_unlock(&writer->lock);
    close(writer->file);
  }
  answer_writer(writer);
}

static void reset_pause(struct writer *writer) {
  pthread_mutex_lock(&writer->lock);
  writer->longest_pause_ns = 0;
  pthread_mutex_unlock(&writer->lock);
  answer_writer(writer);
}

/* ---- the rest ---- */

static void read_text(char *text, size_t size, const char *format, const char *name) {
  char path[512];
  snprintf(path, sizeof path, format, name);
  text[0] = 0;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  ssize_t length = read(file, text, size - 1);
  close(file);
  if (length < 0) length = 0;
  text[length] = 0;
  text[strcspn(text, "\n")] = 0;
}

/* A SCSI disk's serial number is a page of its own: 4 bytes, then the text. */
static void read_scsi_serial(char *text, size_t size, const char *name) {
  char path[512], page[256];
  snprintf(path, sizeof path, "/sys/block/%s/device/vpd_pg80", name);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  ssize_t length = read(file, page, sizeof page);
  close(file);
  if (length > 4) snprintf(text, size, "%.*s", (int)(length - 4), page + 4);
}

static void list_disks(void) {
  DIR *directory = opendir("/sys/block");
  struct dirent *entry;
  int first = 1;
  fprintf(answers, "{\"id\":\"%s\",\"ok\":true,\"disks\":[", escaped(current_id));
  while (directory && (entry = readdir(directory))) {
    const char *name = entry->d_name;
    if (strncmp(name, "vd", 2) != 0 && strncmp(name, "sd", 2) != 0) continue;
    char serial[128], sectors[32], read_only[8];
    read_text(serial, sizeof serial, "/sys/block/%s/serial", name);
    if (!serial[0]) read_scsi_serial(serial, sizeof serial, name);
    read_text(sectors, sizeof sectors, "/sys/block/%s/size", name);
    read_text(read_only, sizeof read_only, "/sys/block/%s/ro", name);
    fprintf(answers, "%s{\"name\":\"%s\",\"size_bytes\":%llu,\"serial\":\"%s\",\"read_only\":%s}", first ? "" : ",",
            escaped(name), strtoull(sectors, NULL, 10) * 512, escaped(serial), read_only[0] == '1' ? "true" : "false");
    first = 0;
  }
  if (directory) closedir(directory);
  fprintf(answers, "]}\n");
  fflush(answers);
}

static void size_of(const char *device) {
  int file = open_device(device, O_RDONLY);
  if (file < 0) return;
  uint64_t bytes;
  if (ioctl(file, BLKGETSIZE64, &bytes) != 0)
    answer_failure(device, errno);
  else
    answer("\"ok\":true,\"size_bytes\":%" PRIu64, bytes);
  close(file);
}

static void carry_out(int count, char **words) {
  const char *command = words[0];
  uint64_t numbers[MAXIMUM_ARGUMENTS] = {0};
  for (int index = 2; index < count; index++) {
    if (!number(words[index], &numbers[index])) {
      answer("\"ok\":false,\"error\":\"not a number: %s\"", escaped(words[index]));
      return;
    }
  }
  int records = !strcmp(command, "start-writer") ? 3 : !strcmp(command, "check-records") ? 2 : 0;
  if (records && count >= 2) {
    uint64_t offset = count == records + 2 ? numbers[records] : 0;
    uint64_t length = count == records + 2 ? numbers[records + 1] : DEFAULT_AREA;
    if (count > records + 2 || count == records + 1 || offset % RECORD || length % RECORD || !length)
      answer("\"ok\":false,\"error\":\"an area is an offset and a length, both multiples of 4096\"");
    else if (records == 3)
      start_writer(words[1], numbers[2], offset, length);
    else
      check_records(words[1], offset, length);
    return;
  }
  if (!strcmp(command, "writer-status") && count == 1) {
    answer_writers();
    return;
  }
  if (!strcmp(command, "writer-status") || !strcmp(command, "stop-writer") || !strcmp(command, "reset-pause")) {
    struct writer *writer = find_writer(count > 1 ? words[1] : NULL);
    if (!writer)
      answer("\"ok\":false,\"error\":\"no such writer, or several: name a device\"");
    else if (command[0] == 'w')
      answer_writer(writer);
    else if (command[0] == 's')
      stop_writer(writer);
    else
      reset_pause(writer);
  } else if (!strcmp(command, "list-disks")) {
    list_disks();
  } else if (!strcmp(command, "size") && count == 2) {
    size_of(words[1]);
  } else if (!strcmp(command, "write-pattern") && count == 5) {
    pattern(words[1], numbers[2], numbers[3], numbers[4], 1);
  } else if (!strcmp(command, "read-pattern") && count == 5) {
    pattern(words[1], numbers[2], numbers[3], numbers[4], 0);
  } else if (!strcmp(command, "checksum") && count == 4) {
    checksum(words[1], numbers[2], numbers[3]);
  } else if (!strcmp(command, "discard") && count == 4) {
    discard(words[1], numbers[2], numbers[3]);
  } else if (!strcmp(command, "poweroff")) {
    answer("\"ok\":true");
    sync();
    tcdrain(fileno(answers));
    reboot(RB_POWER_OFF);
  } else {
    answer("\"ok\":false,\"error\":\"no such command, or wrong arguments: %s\"", escaped(command));
  }
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  int port = open(arguments[1], O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (port < 0) return 1;
  struct termios mode;
  if (tcgetattr(port, &mode) == 0) {
    cfmakeraw(&mode);
    cfsetspeed(&mode, B115200);
    mode.c_cflag |= CLOCAL | CREAD;
    tcsetattr(port, TCSANOW, &mode);
  }
  FILE *commands = fdopen(port, "r");
  answers = fdopen(dup(port), "w");
  if (!commands || !answers) return 1;
  puts("MOORAGE-GUEST-READY");
  fflush(stdout);
  char line[1024];
  while (fgets(line, sizeof line, commands)) {
    char *words[MAXIMUM_ARGUMENTS + 1], *rest = NULL;
    int words_found = 0;
    for (char *word = strtok_r(line, " \r\n", &rest); word && words_found <= MAXIMUM_ARGUMENTS;
         word = strtok_r(NULL, " \r\n", &rest))
      words[words_found++] = word;
    if (words_found < 2) continue;
    current_id = words[0];
    carry_out(words_found - 1, words + 1);
  }
  return 1;
}
