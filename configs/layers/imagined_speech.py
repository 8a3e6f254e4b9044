"""EEGNet, ShallowConvNet and DeepConvNet against CSP with LDA or SVM, on subjects that they have not seen.

Two classes whose bursts have equal power in two bands, which broad-band CSP cannot see; and, as a positive control, a
burst in one class alone, which it can.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "eeg"
    config.seeds = (0, 1, 2)

    config.data = ConfigDict(dict(
        folds=3,
        num_subjects=6,
        trials_per_subject=100,  # a fold has 400 to train on and 200 to test
        num_channels=16,
        num_samples=128,  # 1 s
        frequencies=(22.0, 10.0),  # Hz
        amplitudes=(1.5, 1.5),  # of sources with unit noise
        subject_spread=0.01,
    ))
    config.model = ConfigDict(dict(dropout_rate=0.25))
    config.optimizer = ConfigDict(dict(
        name="lemmata.train.experiments.studies.eeg:max_norm_adam",
        learning_rate=2e-3,
    ))
    config.train = ConfigDict(dict(
        steps=250,  # 20 epochs
        batch_size=32,
        steps_per_dispatch=125,
        log_every=125,
    ))

    control = dict(frequencies=(10.0, 10.0), amplitudes=(0.0, 3.0))
    config.arms = ConfigDict(dict(
        eegnet=dict(classifier="eegnet"),
        shallow_convnet=dict(classifier="shallow_convnet"),
        deep_convnet=dict(classifier="deep_convnet"),
        csp_svm=dict(classifier="csp_svm"),
        csp_lda=dict(classifier="csp_lda"),
        eegnet_control=dict(classifier="eegnet", data=control),
        csp_svm_control=dict(classifier="csp_svm", data=control),
        csp_lda_control=dict(classifier="csp_lda", data=control),
    ))
    config.claim = ConfigDict(dict(
        metric="accuracy", better="eegnet", than="csp_svm", direction="higher",
        paper="EEGNet is best, accuracy 0.7080 and F1 0.6718, against 0.5890 for CSP-SVM and 0.5986 for LDA-SVM",
    ))
    return config
