// Sphinx puts this file into its searchtools.js, in the place of its own Scorer.
// Guides come before results and before chapters of many clauses, where nearly every word occurs.
var Scorer = {
  score: ([docname, _title, _anchor, _descr, score, _filename, kind]) => {
    const weights = [
      ["how-to/", 2],
      ["tutorials/", 1.9],
      ["explanation/", 1.2],
      ["reference/spec", 0.5],
      ["reference/operations", 0.5],
      ["reference/", 1],
      ["", 0.6],
    ];
    const [, weight] = weights.find(([start]) => docname.startsWith(start));
    // a guide that has the word comes before a method whose name contains it, and behind one of just that name
    return score * weight * (kind === SearchResultKind.object ? 0.8 : 1);
  },
  // the numbers below are those of Sphinx
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
