"""What is said of an actor that has ended, from messages as Ray writes them."""

from ray.exceptions import RayActorError

from actors.deaths import describe_death

CREATION = """The actor died because of an error raised in its creation task, \
\x1b[36mray::RayGenerator.__init__()\x1b[39m (pid=6644, ip=192.0.2.2, actor_id=ed5c)
At least one of the input arguments for this task could not be computed:
ray.exceptions.RaySystemError: System error: No module named 'engines'
traceback: Traceback (most recent call last):
  File "a.py", line 1, in f
ModuleNotFoundError: No module named 'engines'
"""
EXIT = """The actor died unexpectedly before finishing this task.
\tclass_name: RayGenerator
\tactor_id: 5a
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. There are some potential root causes.
"""


def test_an_actor_that_could_not_begin_is_described_by_the_end_of_its_traceback() -> None:
    said = describe_death(RayActorError(error_msg=CREATION))
    assert said == "its process could not begin (ModuleNotFoundError: No module named 'engines')"


def test_an_actor_whose_process_ended_is_described_by_its_exit() -> None:
    said = describe_death(RayActorError(error_msg=EXIT))
    assert said.startswith("its process ended (SYSTEM_ERROR: Worker unexpectedly exits with a connection error code 2")
    assert "root causes" not in said
