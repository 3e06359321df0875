weft_test(site_parts SOURCES test_parts.c DEPS weft_sites weft_base m LABELS sanitize)
weft_test(hub_machine SOURCES test_hub_machine.c DEPS weft_sites weft_base m LABELS sanitize)
# Faults at random against the machines of hub and member, in virtual time.
set(sim sim_world.c sim_hub.c sim_site.c sim_plane.c sim_oracle.c)
add_library(site_sim STATIC ${sim} fuzz_rounds.c)
target_link_libraries(site_sim PUBLIC weft_sites weft_base)
weft_fuzzer(fuzz_rounds site_sim)
add_test(NAME site_rounds COMMAND fuzz_rounds --schedules 200 --seconds 30)
set_tests_properties(site_rounds PROPERTIES TIMEOUT 1800 LABELS sanitize)
add_test(NAME site_rounds.churn COMMAND fuzz_rounds --schedules 2 --faults 1000)
set_tests_properties(site_rounds.churn PROPERTIES TIMEOUT 1800)
add_test(NAME site_rounds.long COMMAND fuzz_rounds --schedules 100000 --seed 1000000)
set_tests_properties(site_rounds.long PROPERTIES TIMEOUT 14400)
weft_long(450 site_rounds.long)

# The negative controls.
set(mutants site_mutant fuzz_rounds site_sim)

weft_mutant(early_apply runtime/sites/member_rounds.c
  "    f->prepared = 1;"
  "    f->prepared = 1; member_emit(m, &(weft_member_action){.kind = WEFT_DO_APPLY, .key = f->attempt.key, .commit = &f->attempt});")
weft_mutant(feedback_at_send tests/runtime/sites/sim_site.c
  "        f->feedback++; /* e = e - q: only now */" ""
  "    f->mine_to = k->tokens;" "    f->mine_to = k->tokens; f->feedback++;")
weft_mutant(stale_incarnation runtime/sites/hub_machine.c
  "    if (msg->incarnation != from->incarnation) return;" "")
weft_mutant(lost_abort runtime/sites/hub_rounds.c
  "hub_message(h, WEFT_SITE_ABORT)->u.abort = (weft_site_abort){key, reason};\n    hub_append(h);" "f->phase = WEFT_ROUND_IDLE; f->root_known = 0; (void)key; (void)reason;")
weft_mutant(commit_before_sync tests/runtime/sites/sim_hub.c
  "    if (w->hub.disk_busy) return;"
  "    for (size_t c = 1; c < w->nconn; c++) if (w->conn[c].streaming) stream(w, c, w->nlog, w->nlog); if (w->hub.disk_busy) return;")
weft_mutant(joiner_counted runtime/sites/hub_rounds.c
  "weft_site_set fit = had & ~f->unfit;" "weft_site_set fit = (had | (here & ~f->regular)) & ~f->unfit;")
weft_mutant(joiner_not_audited runtime/sites/hub_audits.c
  "        if (same_root(a, m, k)) {" "        if (1) {")
weft_mutant(last_life runtime/sites/member_rounds.c "if (in && held_for(f, c->key.round))" "if (in)")
