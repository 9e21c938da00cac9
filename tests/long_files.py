"""The order in which the suite begins its files."""

LONGEST = (
    "test_surroundings_of_models.py",
    "test_decode_real.py",
    "test_export.py",
    "test_resume.py",
    "test_end_to_end.py",
    "test_serving.py",
    "test_surroundings.py",
    "test_documented_commands.py",
    "test_tuning_processes.py",
    "test_runs_describe_themselves.py",
    "test_trainer_processes.py",
    "test_anywhere.py",
    "test_leak_and_seal.py",
    "test_tracking_server.py",
    "test_transcribe.py",
    "test_slots.py",
    "test_report_store.py",
    "test_wheel.py",
    "test_cli.py",
    "test_continue.py",
    "test_registry_concurrent.py",
    "test_mlflow_run_elsewhere.py",
    "test_tracking_postgres.py",
)
"""The files that take the longest: begun last, one of them would keep one worker busy and the other one idle."""
