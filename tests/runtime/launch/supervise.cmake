# Faults at random against the supervisor's machine, in virtual time.
add_library(supervise_sim STATIC fuzz_supervise.c)
target_link_libraries(supervise_sim PUBLIC weft_supervise_machine weft_base)
weft_fuzzer(fuzz_supervise supervise_sim)
add_test(NAME supervise_lives COMMAND fuzz_supervise --schedules 2000 --seconds 30)
set_tests_properties(supervise_lives PROPERTIES TIMEOUT 1800 LABELS sanitize)
add_test(NAME supervise_lives.long COMMAND fuzz_supervise --schedules 100000 --seed 1000000)
set_tests_properties(supervise_lives.long PROPERTIES TIMEOUT 14400)
weft_long(180 supervise_lives.long)
# Negative controls: the lock is not looked at, and mistakes in the sources, each of which has to be found.
add_test(NAME supervise_mutant.no_lock COMMAND fuzz_supervise --find --no-lock --schedules 20000 --seconds 800)
set_tests_properties(supervise_mutant.no_lock PROPERTIES TIMEOUT 1800)
set(mutants supervise_mutant fuzz_supervise supervise_sim)

weft_mutant(same_generation runtime/launch/supervise_machine.c
  "r->generation + 1 > e->expected ? r->generation + 1 : e->expected" "r->generation > e->expected ? r->generation : e->expected")
weft_mutant(superseded_runs runtime/launch/supervise_machine.c "e->expected && e->expected <= r->generation" "0")
weft_mutant(write_failed runtime/launch/supervise_machine.c "        if (!ok) {" "        if (0) {")
weft_mutant(no_cap runtime/launch/supervise_machine.c
  "number - r->first >= m->rules.max_generations" "0"
  "r->generation + 1 - r->first >= m->rules.max_generations" "0")
weft_mutant(unclean runtime/launch/supervise_cells.c "n->beat.epoch >= n->order" "1")
weft_mutant(old_exit runtime/launch/supervise_cells.c "c->phase != WEFT_CELL_RUN || c->launch != e->launch" "c->phase != WEFT_CELL_RUN")
weft_mutant(no_kill runtime/launch/supervise_cells.c
  "    if (!late) begin_repair(m, cell);\n    kill_step(m, cell, now);" "    if (!late) begin_repair(m, cell);\n    settle(m, cell, now);")
