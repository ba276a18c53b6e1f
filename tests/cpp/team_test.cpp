// cpu::Team under stress: phases of few tasks in quick succession, with helpers that are late, slow
// or absent. What tasks write is plain memory, so that a missing order shows under TSAN.
#include <chrono>
#include <memory>

#include "check.h"
#include "cpu/parallel.h"

namespace densecrf::testing {

namespace {

void nap(int64_t microseconds) {
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

// A phase through Executor::run itself: parallel() runs short ones on the calling thread.
template <typename Body>
void run_phase(const cpu::Executor& executor, int tasks, Body& body) {
  executor.run(
      executor.self, tasks, [](void* context, int task) { (*static_cast<Body*>(context))(task); },
      &body);
}

// `phases` phases of one to `most` tasks each. The memory of a phase is gone when it is over: a
// helper that still took one of its tasks would be caught.
void run_phases(const cpu::Executor& executor, int phases, int most, uint64_t seed) {
  Random random(seed);
  std::vector<int64_t> total(static_cast<size_t>(most), 0);
  for (int phase = 0; phase < phases; ++phase) {
    const int tasks = 1 + static_cast<int>(random.below(most));
    const auto given = std::make_unique<std::vector<int64_t>>(tasks, phase);
    const auto taken = std::make_unique<std::vector<int64_t>>(tasks, -1);
    auto body = [&given, &taken, &total](int task) {
      require((*taken)[task] == -1, "task ", task, " runs twice");
      (*taken)[task] = (*given)[task];
      total[task] += 1;
    };
    run_phase(executor, tasks, body);
    for (int task = 0; task < tasks; ++task) {
      require((*taken)[task] == phase, "phase ", phase, " ended without task ", task);
      total[task] -= 1;
    }
  }
  for (const int64_t left : total) require(left == 0, "a task ran in a phase it was not part of");
}

void every_task_runs_once() {
  for (const int threads : {2, 3, 8}) {
    with_team(threads, [&](const cpu::Executor& executor) {
      require(executor.threads == threads, "the executor speaks of ", executor.threads, " threads");
      run_phases(executor, 3000, 5, 1);
      run_phases(executor, 20, 1000, 2);
    });
  }
}

void one_thread_suffices() {
  cpu::Team team(1);
  run_phases(team.executor(), 200, 7, 3);
  std::vector<int> order;
  parallel(team.executor(), 5, [&](int task) { order.push_back(task); });
  require(order == std::vector<int>{0, 1, 2, 3, 4}, "one thread runs the tasks out of order");
  team.dismiss();
}

void helpers_need_not_come() {
  cpu::Team team(4);
  run_phases(team.executor(), 500, 7, 4);
  team.dismiss();
  team.help();  // after the end: returns at once
}

void helpers_may_come_late() {
  cpu::Team team(4);
  std::vector<std::thread> helpers;
  for (int i = 1; i < 4; ++i) {
    helpers.emplace_back([&team, i] {
      nap(2000 * i);
      team.help();
    });
  }
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(12)) {
    run_phases(team.executor(), 50, 6, 5);
  }
  team.dismiss();
  for (std::thread& helper : helpers) helper.join();
}

void helpers_may_come_and_be_dismissed_at_any_time() {
  for (int round = 0; round < 100; ++round) {
    with_team(3, [&](const cpu::Executor& executor) {
      run_phases(executor, round % 3, 3, static_cast<uint64_t>(round));
    });
  }
}

void slow_tasks_hold_the_phase_up() {
  with_team(3, [&](const cpu::Executor& executor) {
    Random random(6);
    for (int phase = 0; phase < 40; ++phase) {
      const int tasks = 2 + static_cast<int>(random.below(3));
      const int64_t slow = random.below(tasks);
      std::vector<int> ended(static_cast<size_t>(tasks), 0);
      auto body = [&](int task) {
        if (task == slow) nap(300);
        ended[task] = 1;
      };
      run_phase(executor, tasks, body);
      for (const int end : ended) require(end == 1, "the phase ended before its slow task");
    }
  });
}

void more_tasks_than_threads_and_more_threads_than_tasks() {
  with_team(8, [&](const cpu::Executor& executor) { run_phases(executor, 300, 2, 7); });
  with_team(2, [&](const cpu::Executor& executor) { run_phases(executor, 3, 20000, 8); });
}

// Returns what the phase threw, or an empty string.
template <typename Body>
std::string caught(const cpu::Executor& executor, int tasks, Body body) {
  try {
    run_phase(executor, tasks, body);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

void an_exception_reaches_the_leader_once() {
  for (const int threads : {1, 3}) {
    with_team(threads, [&](const cpu::Executor& executor) {
      for (int round = 0; round < 100; ++round) {
        std::vector<int> ran(4, 0);
        const std::string what = caught(executor, 4, [&](int task) {
          ran[task] = 1;
          if (task == round % 4) throw std::runtime_error(text("task ", task));
        });
        require(what == text("task ", round % 4), "expected task ", round % 4, ", got ", what);
        require(ran == std::vector<int>{1, 1, 1, 1}, "a failure kept other tasks from running");
        run_phases(executor, 5, 4, static_cast<uint64_t>(round));
      }
    });
  }
}

void of_many_exceptions_one_is_thrown() {
  with_team(3, [&](const cpu::Executor& executor) {
    for (int round = 0; round < 100; ++round) {
      const std::string what = caught(
          executor, 6, [&](int task) { throw std::runtime_error(text(round, " task ", task)); });
      require(what.starts_with(text(round, " task ")), "expected one of round ", round, ", got ",
              what);
    }
    require(caught(executor, 6, [](int) {}).empty(), "an old exception was thrown again");
  });
}

void an_exception_of_the_leader_dismisses_the_helpers() {
  std::string what;
  try {
    with_team(3, [](const cpu::Executor& executor) {
      run_phases(executor, 5, 4, 9);
      fail("the leader gave up");
    });
  } catch (const std::exception& error) {
    what = error.what();
  }
  require(what == "the leader gave up", "got ", what);
}

}  // namespace

}  // namespace densecrf::testing

int main() {
  using namespace densecrf::testing;
  int failures = 0;
  failures += run_test("every task of every phase runs once", every_task_runs_once);
  failures += run_test("one thread suffices", one_thread_suffices);
  failures += run_test("helpers need not come", helpers_need_not_come);
  failures += run_test("helpers may come late", helpers_may_come_late);
  failures += run_test("helpers may come and be dismissed at any time",
                       helpers_may_come_and_be_dismissed_at_any_time);
  failures += run_test("slow tasks hold their phase up", slow_tasks_hold_the_phase_up);
  failures += run_test("more tasks than threads, more threads than tasks",
                       more_tasks_than_threads_and_more_threads_than_tasks);
  failures +=
      run_test("an exception reaches the leader once", an_exception_reaches_the_leader_once);
  failures += run_test("of many exceptions one is thrown", of_many_exceptions_one_is_thrown);
  failures += run_test("an exception of the leader dismisses the helpers",
                       an_exception_of_the_leader_dismisses_the_helpers);
  return failures == 0 ? 0 : 1;
}
