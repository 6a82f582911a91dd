// SPDX-License-Identifier: GPL-2.0-or-later
// Carry frames over the virtio-serial port.

#include "labd_port.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define PORT_NAME     "org.vmgraft.lab.0"
#define PORTS_DIR     "/dev/virtio-ports"
#define PORTS_SYS_DIR "/sys/class/virtio-ports"
#define FRAME_MAGIC   'V'

void die(const char *what)
{
    fprintf(stderr, "labd: %s: %s\n", what, strerror(errno));
    exit(1);
}

size_t buffer_length(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

void buffer_append(struct buffer *buffer, const void *data, size_t length)
{
    if (!length)
        return;
    if (buffer->end + length > buffer->capacity && buffer->start) {
        memmove(buffer->data, buffer->data + buffer->start, buffer_length(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + length > buffer->capacity) {
        buffer->capacity = 2 * (buffer->end + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data)
            die("memory");
    }
    memcpy(buffer->data + buffer->end, data, length);
    buffer->end += length;
}

static bool link_port(const char *device)
{
    char path[512], name[128] = "", link[512];

    snprintf(path, sizeof path, PORTS_SYS_DIR "/%s/name", device);
    FILE *file = fopen(path, "re");
    bool named = file && fscanf(file, "%127s", name) == 1;
    if (file)
        fclose(file);
    if (!named)
        return false;
    snprintf(path, sizeof path, "../%s", device);
    snprintf(link, sizeof link, PORTS_DIR "/%s", name);
    return (symlink(path, link) == 0 || errno == EEXIST) && !strcmp(name, PORT_NAME);
}

void ports_link(void)
{
    bool found = false;

    mkdir(PORTS_DIR, 0755);
    while (!found) {
        DIR *dir = opendir(PORTS_SYS_DIR);
        struct dirent *entry;
        while (dir && (entry = readdir(dir)))
            if (entry->d_name[0] != '.')
                found |= link_port(entry->d_name);
        if (dir)
            closedir(dir);
        if (!found)
            usleep(5 * 1000);
    }
}

void port_open(struct port *port)
{
    port->fd = open(PORTS_DIR "/" PORT_NAME, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (port->fd < 0)
        die(PORT_NAME);
}

bool port_read(struct port *port)
{
    uint8_t chunk[PORT_MAX_PAYLOAD_BYTES];
    ssize_t got = read(port->fd, chunk, sizeof chunk);

    if (got > 0)
        buffer_append(&port->incoming, chunk, got);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

const struct frame *port_next(struct port *port)
{
    struct buffer *incoming = &port->incoming;
    struct frame *head = &port->current.head;

    if (buffer_length(incoming) < sizeof *head)
        return NULL;
    memcpy(head, incoming->data + incoming->start, sizeof *head);
    if (head->magic != FRAME_MAGIC || head->length > sizeof port->current.payload) {
        errno = EPROTO;
        die("frame from the host");
    }
    if (buffer_length(incoming) < sizeof *head + head->length)
        return NULL;
    memcpy(port->current.payload, incoming->data + incoming->start + sizeof *head, head->length);
    incoming->start += sizeof *head + head->length;
    return head;
}

void port_send(struct port *port, enum frame_type type, uint32_t channel, const void *data,
               size_t length)
{
    struct frame head = {FRAME_MAGIC, type, 0, channel, length};

    buffer_append(&port->outgoing, &head, sizeof head);
    buffer_append(&port->outgoing, data, length);
}

void port_send_number(struct port *port, enum frame_type type, uint32_t channel, uint32_t number)
{
    port_send(port, type, channel, &number, sizeof number);
}

void port_send_failure(struct port *port, uint32_t channel, int error, const char *what)
{
    struct {
        int32_t error;
        char text[508];
    } failure = {.error = error};

    snprintf(failure.text, sizeof failure.text, "%.400s: %s", what, strerror(error));
    port_send(port, FRAME_FAILED, channel, &failure, sizeof failure.error + strlen(failure.text));
}

void port_flush(struct port *port)
{
    struct buffer *outgoing = &port->outgoing;

    while (buffer_length(outgoing)) {
        ssize_t put = write(port->fd, outgoing->data + outgoing->start, buffer_length(outgoing));
        if (put <= 0)
            return;
        outgoing->start += put;
    }
}

bool port_greet(struct port *port)
{
    static const uint8_t zeros[PORT_MAX_PAYLOAD_BYTES];
    struct buffer *incoming = &port->incoming, *outgoing = &port->outgoing;
    struct {
        struct frame head;
        uint8_t nonce[8];
    } answer = {{FRAME_MAGIC, FRAME_WELCOME, 0, 0, sizeof answer.nonce}, {0}};

    if (getrandom(answer.nonce, sizeof answer.nonce, 0) != sizeof answer.nonce)
        die("getrandom");
    outgoing->start = outgoing->end = incoming->start = incoming->end = 0;
    buffer_append(outgoing, zeros, sizeof zeros);
    port_send(port, FRAME_HELLO, 0, answer.nonce, sizeof answer.nonce);
    for (;;) {
        struct pollfd item = {port->fd, POLLIN | (buffer_length(outgoing) ? POLLOUT : 0), 0};
        if (poll(&item, 1, -1) < 0 && errno != EINTR)
            die("poll");
        if (item.revents & POLLHUP || (item.revents & POLLIN && !port_read(port)))
            return false;
        port_flush(port);
        if (!buffer_length(incoming))
            continue;
        uint8_t *found = memmem(incoming->data + incoming->start, buffer_length(incoming), &answer,
                                sizeof answer);
        if (found) {
            incoming->start = found - incoming->data + sizeof answer;
            return true;
        }
    }
}
