"""Read the data files of tasks, make prompts in the format of lm-eval, and score answers (chapter 18).

item          the items of a task: choices to compare, or a question to answer
table         every task by name: its folder, its format, its metrics
commonsense   questions with choices in instruction form
mmlu          MMLU-Redux
arithmetic    GSM8K, and word problems in instruction form
files         JSON and CSV files, read strictly
scores        accuracy, extracted answers, standard errors

No model is known here: `runs.tasks` puts items and a model together. Start reading in `table`.
"""
