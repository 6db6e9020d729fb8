"""`relabel calibrate`: from verdicts and human labels to a calibration. Needs the extra `calibrate`.

pilot run or verdict tables + human labels -> pairs -> a model of each fold -> its rule, by a target -> agreement with
people -> calibration.json
"""
