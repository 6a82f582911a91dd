// SPDX-License-Identifier: GPL-2.0-or-later
// The frames between labd and the host, and the virtio-serial port that carries them.
//
//   frame:   'V' type:u8 zero:u16 channel:u32 length:u32 payload   (little endian, <= 32 KiB)
//   start:   labd -> 32 KiB of zeros, HELLO(nonce); host -> WELCOME(nonce)
//            The zeros complete any frame that an earlier labd left half sent; where a frame is
//            to begin, zeros are skipped. labd ignores all input up to its WELCOME.
//   command: host -> EXEC; labd -> STARTED(pid) | FAILED(errno, text)
//            host -> STDIN (empty: end of file), HANGUP (kill)
//            labd -> STDOUT, STDERR, EXIT(status, 128 + signal when killed)
//   flow:    a sender has at most PORT_WINDOW_BYTES of one channel under way; the receiver hands
//            them back by CREDIT(bytes). STDOUT and STDERR share a window.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PORT_MAX_PAYLOAD_BYTES 32768
#define PORT_WINDOW_BYTES      (256 * 1024)

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME,
    FRAME_EXEC,
    FRAME_STARTED,
    FRAME_FAILED,
    FRAME_STDIN,
    FRAME_STDOUT,
    FRAME_STDERR,
    FRAME_EXIT,
    FRAME_CREDIT,
    FRAME_HANGUP,
};

struct frame {
    uint8_t magic;
    uint8_t type;
    uint16_t zero;
    uint32_t channel;
    uint32_t length; // bytes of payload
};

// Bytes waiting to go somewhere: those at [start, end) of data.
struct buffer {
    uint8_t *data;
    size_t start, end, capacity;
};

struct port {
    int fd;
    struct buffer incoming, outgoing;
    struct {
        struct frame head;
        uint8_t payload[PORT_MAX_PAYLOAD_BYTES];
    } current; // what port_next returned last
};

// Print "labd: what: strerror(errno)" and exit: init starts a new labd.
_Noreturn void die(const char *what);

size_t buffer_length(const struct buffer *buffer);
void buffer_append(struct buffer *buffer, const void *data, size_t length);

// Link every named port below /dev/virtio-ports, as udev would, until labd's own has appeared: a
// port gets its name some time after the driver is loaded.
void ports_link(void);

void port_open(struct port *port);

// Say HELLO and swallow everything up to the WELCOME that answers it. False: nobody is there.
bool port_greet(struct port *port);

// Read what has arrived. False: the host has closed its end.
bool port_read(struct port *port);

// The next whole frame that was read, NULL when there is none. Its payload follows it in memory;
// both are valid until the next call or port_read.
const struct frame *port_next(struct port *port);

// Queue a frame; port_flush writes as much of the queue as the port takes without waiting.
void port_send(struct port *port, enum frame_type type, uint32_t channel, const void *data,
               size_t length);
void port_send_number(struct port *port, enum frame_type type, uint32_t channel, uint32_t number);
void port_send_failure(struct port *port, uint32_t channel, int error, const char *what);
void port_flush(struct port *port);
