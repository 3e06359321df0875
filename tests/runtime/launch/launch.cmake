# The launch machine under faults in virtual time.
add_library(launch_sim STATIC fuzz_launch.c)
target_link_libraries(launch_sim PUBLIC weft_launch weft_base)
weft_fuzzer(fuzz_launch launch_sim)
add_test(NAME launch_faults COMMAND fuzz_launch --schedules 2000 --seconds 60)
set_tests_properties(launch_faults PROPERTIES TIMEOUT 1800 LABELS sanitize)
add_test(NAME launch_faults.long COMMAND fuzz_launch --schedules 100000 --seed 1000000)
set_tests_properties(launch_faults.long PROPERTIES TIMEOUT 14400)
weft_long(80 launch_faults.long)

# The negative controls.
set(mutants launch_mutant fuzz_launch launch_sim)

weft_mutant(late_answers runtime/launch/launch_machine.c "if (s->op == LAUNCH_NO_OP || e->id != s->op_id) return;" "if (s->op == LAUNCH_NO_OP) return;")
weft_mutant(no_adoption runtime/launch/launch_machine.c "(launch_site){.lost_ns = NEVER," "(launch_site){.phase = LAUNCH_PREPARE, .lost_ns = NEVER,")
weft_mutant(no_settling runtime/launch/launch_machine.c "if (s->record.intent && s->op_began_ns < s->settle_ns) {" "if (0) {")
weft_mutant(submit_before_save runtime/launch/launch_machine.c "        s->phase = LAUNCH_INTEND;" "        s->phase = LAUNCH_SUBMIT;")
weft_mutant(unknown_is_not_done runtime/launch/launch_machine.c "s->phase = LAUNCH_NEW; /* was it submitted? */" "s->phase = LAUNCH_PREPARE;")
weft_mutant(home_not_watched runtime/launch/launch_machine.c "    watch_home(m, now);" "")
weft_mutant(queue_not_emptied runtime/launch/launch_machine.c "if (s->stop && j->state == SLURM_PENDING) want_cancel(s, j->id);" "")
weft_mutant(end_too_early runtime/launch/launch_machine.c "if (m->site[i].phase != LAUNCH_ENDED || m->site[i].op != LAUNCH_NO_OP) return;"
  "if (m->site[i].phase != LAUNCH_ENDED && (int)i == (m->rules.home < 0 ? 0 : m->rules.home)) return;")
