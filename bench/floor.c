/* The floor: what carrying a batch into a namespace costs when nothing is done but that. It times its own steps.
 *
 *     floor [-r ROUTING] BATCH...
 *
 * Reads lines. "PATH N" enters the namespace at PATH, opens a socket and sends the batch with this number; "= N" sends
 * one over the socket that is open; ". 0" closes that. Answers each with a line: nanoseconds for entering, for the socket, for the send,
 * for the answer, and for ROUTING, messages of rtnetlink that ask for one acknowledgement each (0 without them).
 * The socket is opened as agent/kernel/rawnetlink.py opens it. Ends with 1 and says why when anything is refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_LINE = 4096, MOST_BATCHES = 16 };

struct file {
    char *data;
    size_t size;
    int messages;
};

static char answer[65536];

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct file load(const char *path)
{
    struct file loaded = {0};
    FILE *from = fopen(path, "rb");
    if (!from || fseek(from, 0, SEEK_END))
        fail(path);
    loaded.size = ftell(from);
    rewind(from);
    loaded.data = malloc(loaded.size + 1);
    if (!loaded.data || fread(loaded.data, 1, loaded.size, from) != loaded.size)
        fail(path);
    fclose(from);
    for (size_t at = 0; at + sizeof(struct nlmsghdr) <= loaded.size; loaded.messages++)
        at += NLMSG_ALIGN(((struct nlmsghdr *)(loaded.data + at))->nlmsg_len);
    return loaded;
}

static void enter(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0 || setns(descriptor, CLONE_NEWNET))
        fail(path);
    close(descriptor);
}

static int opened(int protocol, size_t longest)
{
    int on = 1, room = 0;
    socklen_t size = sizeof room;
    struct timeval patience = {.tv_sec = 5};
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (netlink < 0)
        fail("socket");
    if (setsockopt(netlink, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) ||
        setsockopt(netlink, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) ||
        setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
        getsockopt(netlink, SOL_SOCKET, SO_SNDBUF, &room, &size))
        fail("setsockopt");
    if (longest + 32 > (size_t)room) {
        room = (int)longest;
        if (setsockopt(netlink, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room))
            fail("SO_SNDBUFFORCE");
    }
    return netlink;
}

/* Reads until as many acknowledgements came as are wanted; a refusal is the end. */
static void drain(int netlink, int wanted)
{
    while (wanted > 0) {
        ssize_t size = recv(netlink, answer, sizeof answer, MSG_DONTWAIT);
        if (size < 0)
            fail("no acknowledgement");
        for (struct nlmsghdr *each = (void *)answer; NLMSG_OK(each, size); each = NLMSG_NEXT(each, size)) {
            struct nlmsgerr *said = NLMSG_DATA(each);
            if (each->nlmsg_type != NLMSG_ERROR)
                continue;
            if (said->error) {
                errno = -said->error;
                fail("refused");
            }
            wanted--;
        }
    }
    if (wanted < 0) {
        errno = EPROTO;
        fail("more than one acknowledgement");
    }
}

static void send_all(int netlink, const struct file *what)
{
    if (send(netlink, what->data, what->size, 0) != (ssize_t)what->size)
        fail("send");
}

int main(int count, char **arguments)
{
    struct file batches[MOST_BATCHES], routing = {0};
    int known = 0, netlink = -1, at = 1;
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    char line[LONGEST_LINE], path[LONGEST_LINE];

    if (count > 2 && !strcmp(arguments[1], "-r")) {
        routing = load(arguments[2]);
        at = 3;
    }
    for (; at < count && known < MOST_BATCHES; at++)
        batches[known++] = load(arguments[at]);
    while (fgets(line, sizeof line, stdin)) {
        int number;
        errno = EINVAL;
        if (sscanf(line, "%4000s %d", path, &number) != 2 || number < 0 || number >= known)
            fail(line);
        const struct file *batch = &batches[number];
        int fresh = strcmp(path, "=") != 0, route = -1;
        if (fresh && netlink >= 0)
            close(netlink); /* off the clock: after a change it waits for a grace period */
        if (!strcmp(path, ".")) {
            netlink = -1;
            printf("0 0 0 0 0\n");
            fflush(stdout);
            continue;
        }

        long long begun = now();
        if (fresh)
            enter(path);
        long long entered = now();
        if (fresh)
            netlink = opened(NETLINK_NETFILTER, batch->size);
        long long ready = now();
        send_all(netlink, batch);
        long long sent = now();
        drain(netlink, 1);
        long long drained = now();
        if (fresh && routing.size) {
            route = opened(NETLINK_ROUTE, routing.size);
            send_all(route, &routing);
            drain(route, routing.messages);
        }
        long long routed = now();

        if (route >= 0)
            close(route);
        if (setns(home, CLONE_NEWNET)) /* or it would keep the namespace */
            fail("setns");
        printf("%lld %lld %lld %lld %lld\n", entered - begun, ready - entered, sent - ready, drained - sent,
               route >= 0 ? routed - drained : 0);
        fflush(stdout);
    }
    return 0;
}
