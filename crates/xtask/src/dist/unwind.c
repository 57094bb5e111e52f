/* What gcc's unwinder (libgcc_eh.a) takes from glibc, so that a panic can be caught in a static program with musl. */
#define _GNU_SOURCE
#include <link.h>
#include <pthread.h>
#include <stddef.h>

/* The unwinder names these functions weakly: the linker does not look for them in an archive, and the unwinder would call
 * address 0. */
void *const unwinder_needs[] = {
    (void *)pthread_once,        (void *)pthread_mutex_lock,  (void *)pthread_mutex_unlock,
    (void *)pthread_key_create,  (void *)pthread_getspecific, (void *)pthread_setspecific,
};

/* The one function that musl lacks finds the table of unwinding information for an address. The struct has the layout of
 * glibc's <dlfcn.h>; gcc's unwinder reads dlfo_eh_frame. */

struct dl_find_object {
    unsigned long long dlfo_flags;
    void *dlfo_map_start;
    void *dlfo_map_end;
    void *dlfo_link_map;
    void *dlfo_eh_frame;
    unsigned long long reserved[7];
};

struct search {
    ElfW(Addr) address;
    struct dl_find_object *result;
};

static int find(struct dl_phdr_info *object, size_t size, void *data) {
    struct search *search = data;
    void *table = NULL;
    int has_address = 0;
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        ElfW(Addr) start = object->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_GNU_EH_FRAME) {
            table = (void *)start;
        } else if (part->p_type == PT_LOAD && search->address - start < part->p_memsz) {
            has_address = 1;
            search->result->dlfo_map_start = (void *)start;
            search->result->dlfo_map_end = (void *)(start + part->p_memsz);
        }
    }
    if (!has_address || table == NULL) {
        return 0;
    }
    search->result->dlfo_flags = 0;
    search->result->dlfo_link_map = NULL;
    search->result->dlfo_eh_frame = table;
    return 1;
}

/* Called for each function on the stack, from any thread. */
int _dl_find_object(void *address, struct dl_find_object *result);

int _dl_find_object(void *address, struct dl_find_object *result) {
    struct search search = {(ElfW(Addr))address, result};
    return dl_iterate_phdr(find, &search) == 1 ? 0 : -1;
}
