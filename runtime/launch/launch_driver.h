/* How an operation is done at a site: by Slurm's commands of this machine (local), or by a script that a shell at the other end
 * of ssh reads from its input (ssh). One operation a site at a time, in the background.
 *
 * The script's words are checked ones (launch_config.h); files travel in it behind a mark of 128 random bits, which also tells
 * its answer from what a login shell may print. Exit code 255 is ssh's own: nobody was reached. */
#ifndef WEFT_LAUNCH_DRIVER_H
#define WEFT_LAUNCH_DRIVER_H

#include "runtime/launch/command.h"
#include "runtime/launch/launch_config.h"
#include "runtime/launch/launch_machine.h"

enum { LAUNCH_FILE_MAX = 1 << 20 }; /* bytes of a file that is fetched */

/* The hub's address and the invitations, as home has them: what has to be carried. */
typedef struct launch_hub_files {
    char *address, *invite[LAUNCH_MEMBERS]; /* owned; NULL: not there yet */
    uint64_t bytes[LAUNCH_SITES]; /* that each site has sent, by the hub's accounts; 0: not known yet */
    uint32_t version;             /* 0: none; grows whenever all are there and any of them has changed */
} launch_hub_files;

typedef struct launch_driver {
    const launch_config *c;
    size_t site;
    const char *weft, *profile; /* borrowed */
    char mark[40], prefix[LAUNCH_PREFIX], name[64], job_text[24];
    launch_op op; /* LAUNCH_NO_OP: free */
    uint32_t id;
    int finished; /* answer and what follows are set */
    weft_command command;
    char *input; /* of the command, until it has started */
    launch_answer answer;
    uint64_t job;
    char text[256];  /* of an answer that is not DONE */
    slurm_job *jobs; /* SLURM_JOBS */
    size_t njobs;
    launch_status status;
    char *fetched; /* ssh: output of a listing */
} launch_driver;

/* `weft`: the command at the site. NOMEM. */
weft_status launch_driver_open(launch_driver *d, const launch_config *c, size_t site, const char *weft,
                               const char *profile);
void launch_driver_close(launch_driver *d);
/* Begins what the machine asked for; an error is an answer, too. `generation`: of a submission; `hub`: of a carriage, and
 * brought up to date by a listing at home. */
void launch_driver_begin(launch_driver *d, const launch_action *a, uint32_t generation,
                         launch_hub_files *hub);
/* Goes on; 1 if the operation is finished (once). */
int launch_driver_step(launch_driver *d, launch_hub_files *hub);
/* The answer as an event; the operation is over then. Its pointers live until the next begin. */
launch_event launch_driver_answer(launch_driver *d, const launch_hub_files *hub);
void launch_hub_files_free(launch_hub_files *hub);
/* invites/MEMBER.json, as home calls it, and invite.json or invite-cK.json, as the member's own site does. */
void launch_invite_names(const launch_config *c, size_t member, char home[80], char away[80]);

/* Between the two ways. Each returns the script or NULL (NOMEM). */
char *launch_ssh_script(const launch_driver *d, const launch_action *a, uint32_t generation,
                        const launch_hub_files *hub);
/* Takes the answer of such a script apart: *code is what its last command said; FORMAT: the marks are not there. */
weft_status launch_ssh_body(const launch_driver *d, const char *text, size_t n, const char **body,
                            size_t *nbody, int *code);
/* A file that a listing's script sent back: fresh memory, NULL if it was not there. */
char *launch_ssh_file(const launch_driver *d, const char *text, const char *name);

#endif
