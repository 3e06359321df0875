# Faults at random against the machines of hub and member, in virtual time.
set(sim sim_world.c sim_hub.c sim_site.c sim_plane.c sim_oracle.c fuzz_rounds.c)
add_executable(fuzz_rounds ${sim})
target_link_libraries(fuzz_rounds PRIVATE weft_sites weft_base)
add_test(NAME site_rounds COMMAND fuzz_rounds --schedules 150 --seconds 20)
set_tests_properties(site_rounds PROPERTIES TIMEOUT 120 LABELS sanitize)
